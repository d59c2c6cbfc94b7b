"""A real PgBouncer, which these tests start themselves (`make leg-pgbouncer`; the program comes from Debian's package)."""
