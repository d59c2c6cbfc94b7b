-- read_settings() -> one row
-- The database's encoding, and whether the session's writes fire triggers as those of a user do.
select current_setting('server_encoding') as server_encoding, current_setting('session_replication_role') as session_replication_role;
