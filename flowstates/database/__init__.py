"""The database as such: a pool, a server, tables, and whether they fit."""
