-- read_page.blocked() -> many row
-- The open transactions that hold a feed, the oldest first, at most ten: who has them, and for how many microseconds, null where this role may
-- not see that. Those of all databases count, prepared ones too. A standby sees none of those of its primary.
with bound as materialized (
    select pg_snapshot_xmax(pg_current_snapshot())::xid as newest
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
 where age(open.xid) > age(bound.newest)
 order by age(open.xid) desc
 limit 10;
