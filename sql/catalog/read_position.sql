-- read_position() -> one row
-- Where the server's log ends now, with its cluster and timeline; only the cluster on a standby.
-- At the begin of a page that is behind the page's head, 24 bytes, or 40 at the begin of a segment, where a standby that has all stands before it.
select (select system_identifier from pg_control_system())::text as cluster, log.timeline,
       (log.lsn - case when mod(log.lsn - '0/0', pg_size_bytes(current_setting('wal_segment_size'))) = 40 then 40
                       when mod(log.lsn - '0/0', current_setting('wal_block_size')::int) = 24 then 24
                       else 0
                  end)::text as lsn
  from (select case when not pg_is_in_recovery() then left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) end as timeline,
               case when not pg_is_in_recovery() then pg_current_wal_insert_lsn() end as lsn) as log;
