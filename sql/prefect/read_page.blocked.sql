-- read_page.blocked(slack text, is_joined text) -> many row
-- The open transactions that hold a feed, the oldest first, at most ten: who has them, and for how many microseconds, null where this role may not see
-- that. Those of this database that are older than the slack count, and those of which that is not seen.
select open.pid::text as pid, open.database::text as database, open.application_name::text as application_name,
       (extract(epoch from clock_timestamp() - open.begun) * 1000000)::bigint::text as age, open.gid::text as gid
  from (select pid, datname as database, application_name, xact_start as begun, null::text as gid
          from pg_catalog.pg_stat_activity as session
         where usesysid is not null
           and (pid <> pg_backend_pid() or $2::text::boolean) -- the caller's own too
           and (xact_start < statement_timestamp() - $1::text::interval
                or (xact_start is null and state is distinct from 'idle'
                    and exists (select
                                  from pg_catalog.pg_locks as held
                                 where held.pid = session.pid and held.locktype = 'virtualxid' and held.mode = 'ExclusiveLock')))
         union all
        select null, database, null, prepared, gid
          from pg_catalog.pg_prepared_xacts) as open
 where open.database = current_database()
 order by open.begun nulls last
 limit 10;
