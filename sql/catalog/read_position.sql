-- read_position() -> one row
-- Where the server's log ends now, with its cluster and timeline; only the cluster on a standby.
select (select system_identifier from pg_control_system())::text as cluster,
       case when not pg_is_in_recovery() then left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) end as timeline,
       case when not pg_is_in_recovery() then pg_current_wal_insert_lsn()::text end as lsn;
