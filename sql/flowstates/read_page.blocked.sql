-- read_page.blocked() -> many row
-- The open transactions that hold a feed, the oldest first, at most ten: who has them, and for how many microseconds, null where this role may
-- not see that. Those of all databases count, prepared ones too. A standby sees none of those of its primary. No row where no committed state waits.
with bound as materialized (
    select snapshot, pg_snapshot_xmin(snapshot) as horizon, pg_snapshot_xmax(snapshot) as newest
      from pg_current_snapshot() as taken (snapshot)
), waiting as materialized (
    -- It is looked for between the transactions that are open, since what these have written would be gone through in vain.
    select state.transaction
      from (select xid, lead(xid, 1, (select newest from bound)) over (order by xid) as next
              from (select horizon as xid from bound union select pg_snapshot_xip(snapshot) from bound) as open) as gap
     cross join lateral (
           select transaction
             from flow_run_state
            where transaction > gap.xid and transaction < gap.next
            order by transaction
            limit 1) as state
     limit 1
), open as (
    select backend_xid as xid, pid, datname as database, application_name, xact_start as begun, null::text as gid
      from pg_catalog.pg_stat_activity
     where backend_xid is not null
     union all
    select transaction, null, database, null, prepared, gid
      from pg_catalog.pg_prepared_xacts
)
select open.pid::text as pid, open.database::text as database, open.application_name::text as application_name,
       (extract(epoch from clock_timestamp() - open.begun) * 1000000)::bigint::text as age, open.gid::text as gid
  from open
 cross join bound
 cross join waiting
 where age(open.xid) > age(bound.newest::xid)
 order by age(open.xid) desc
 limit 10;
