-- read_page(transaction text, timestamp text, id text, known text, most text, looked text, is_first text) -> many row
-- The next states after a position that a filter lets through, in the order of (transaction, timestamp, id) up to the oldest transaction that is
-- open; it looks at so many states and gives so many. One row without a state where there is none. Besides, what makes an answer untrue.
-- What is given is looked up in a query, so that one plan serves all positions: planned anew, an empty page would cost several times as much. No page
-- looks at more than 10,001 states, which keeps the planner from plans for many rows.
with given as materialized (
    select $1::text::xid8 as transaction, $2::text::timestamptz as timestamp, $3::text::uuid as id, nullif($4::text, '')::pg_snapshot as known,
           $6::text::bigint as looked
), bound as materialized (
    -- Of the snapshot that the states are read with: nobody can write below the horizon any more, and what was committed there is seen.
    select pg_snapshot_xmin(snapshot) as horizon, pg_snapshot_xmax(snapshot) as newest,
           -- The number that the next transaction gets, which age() counts from; in a transaction that has a number it counts from that.
           (pg_snapshot_xmax(snapshot)::text::bigint + greatest(age(pg_snapshot_xmax(snapshot)::xid), 0))::text::xid8 as next, snapshot
      from pg_current_snapshot() as taken (snapshot)
), looked as materialized (
    select state.*
      from (select state.*
              from flow_run_state as state
             where (state.transaction, state.timestamp, state.id)
                   > ((select transaction from given), (select timestamp from given), (select id from given))
               and state.transaction < (select horizon from bound)
             order by state.transaction, state.timestamp, state.id
             limit 10001) as state
     order by state.transaction, state.timestamp, state.id
     limit (select looked from given)
), page as materialized (
    select state.*
      from looked as state
     where (/* slot: filter */ true /* end */)
     order by state.transaction, state.timestamp, state.id
     limit $5::text::bigint
), fault as materialized (
    select case -- At an older snapshot a position may be newer than that.
                when $1::text::xid8 > bound.next
                     and not pg_is_in_recovery()
                     and (current_setting('transaction_isolation') in ('read committed', 'read uncommitted')
                          or statement_timestamp() = transaction_timestamp())
                then 'position'
                when not $7::text::boolean then null
                -- Of transactions that are still to come. Those that are open have lesser numbers, so it looks at none of their states.
                when (select transaction
                        from flow_run_state
                       where transaction >= (select next from bound)
                         and transaction is distinct from pg_current_xact_id_if_assigned()
                       order by transaction
                       limit 1) is not null
                then 'states'
                when exists (select from pg_catalog.pg_extension where extname = 'citus') then 'citus'
                when exists (select from pg_catalog.pg_subscription_rel where srrelid = 'flow_run_state'::regclass) then 'copy'
            end as kind
      from bound
)
select /* slot: state */ state.* /* end */, state.transaction::text as transaction, fault.kind as fault,
       -- Whether states are gone that come after the position, by a transaction that it does not know.
       (exists (select
                  from flowstates_pruned as pruned
                 where (pruned.transaction, pruned.timestamp, pruned.id)
                       > ((select transaction from given), (select timestamp from given), (select id from given))
                   and not pg_visible_in_snapshot(pruned.pruned_by, (select known from given))))::text as is_pruned,
       bound.snapshot::text as known,
       (bound.horizon < bound.newest)::text as is_open,
       -- How far it looked, where that is not how far it tells.
       case when (select count(*) from page) < $5::text::bigint
            then (select json_build_array(state.transaction::text, to_json(state.timestamp at time zone 'UTC'), state.id,
                                          (select count(*) from looked))::text
                    from looked as state
                   order by state.transaction desc, state.timestamp desc, state.id desc
                   limit 1)
        end as reached
  from bound
 cross join fault
  left join page as state on true
 order by state.transaction, state.timestamp, state.id;
