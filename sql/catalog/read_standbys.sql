-- read_standbys() -> one row
-- Positions in the log as numbers of bytes: what is written, and what the slowest standby has replayed, null without standbys; how late the slowest
-- one says that it is, in seconds. What a role without pg_read_all_stats sees of standbys is null.
select pg_has_role('pg_read_all_stats', 'usage') as is_visible, pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::text as written,
       min(pg_wal_lsn_diff(replay_lsn, '0/0'))::text as replayed, coalesce(extract(epoch from max(replay_lag)), 0)::text as lag
  from pg_stat_replication;
