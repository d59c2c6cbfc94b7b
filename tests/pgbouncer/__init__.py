"""A real PgBouncer, which these tests start themselves (`make leg-pgbouncer`; the programs come from Debian's packages)."""
