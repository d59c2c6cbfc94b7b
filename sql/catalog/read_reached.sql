-- read_reached(lsn text) -> one row
-- Whether the server has come to a place of its log, with its cluster and the timeline on which it is: on a standby that which it receives, null
-- where it receives nothing, or where this role may not see it.
-- The place is read first. Timelines only grow, so one that is still received then was that of the place too. A receiver that waits receives
-- nothing: the log may come from an archive meanwhile, of a later timeline.
select (select system_identifier from pg_control_system())::text as cluster, log.is_reached::text as is_reached, log.is_standby::text as is_standby,
       case when log.is_standby then lpad(upper(to_hex(receiver.received_tli)), 8, '0') else left(pg_walfile_name(log.place), 8) end as timeline,
       pg_has_role('pg_read_all_stats', 'usage')::text as is_visible, current_setting('transaction_isolation') as isolation
  from (select place, place >= $1::text::pg_lsn as is_reached, is_standby
          from (select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end as place,
                       pg_is_in_recovery() as is_standby
                offset 0) as log
        offset 0) as log
  left join lateral (select received_tli from pg_stat_wal_receiver where log.place is not null and status = 'streaming' offset 0) as receiver on true;
