-- read_settings() -> one row
-- The database's encoding, whether the session's writes fire triggers as those of a user do, and whether the database has Citus.
select current_setting('server_encoding') as server_encoding, current_setting('session_replication_role') as session_replication_role,
       exists (select from pg_catalog.pg_extension where extname = 'citus') as has_citus;
