-- Since when transactions of this database may be open, as far as this role sees them: `begun`, at most the time of this statement. And which ones are
-- open whose begin it does not see, by the ids that all roles see: of other roles' sessions, and what is prepared.
-- Whoever reads after this has all of what was sent before `begun` and committed: what is open now has begun later, what has ended is seen.
session as materialized (
    -- Who has no role writes no states: autovacuum, say.
    select pid, xact_start as begun, xact_start is null and state is distinct from 'idle' as is_unseen
      from pg_catalog.pg_stat_activity
     where datname = current_database()
       and usesysid is not null
), open as materialized (
    select least(statement_timestamp(), (select min(begun) from session)) as begun,
           (select string_agg(key, ' ')
              from (-- By its number too, where it has one, as it goes on by that when it is prepared.
                    select coalesce('number/' || held.transactionid, held.virtualtransaction) as key
                      from session
                      join pg_catalog.pg_locks as held
                        on held.pid = session.pid and held.locktype in ('virtualxid', 'transactionid') and held.mode = 'ExclusiveLock'
                     where session.is_unseen
                     union all
                    select 'number/' || transaction
                      from pg_catalog.pg_prepared_xacts
                     where database = current_database()) as unseen) as unseen
)
