-- positions() -> many row
-- How far each consumer has come, how many states come after it, up to 100,000, and for how many microseconds the first of these has been there; and
-- whether states are gone that came after it, and it was not told.
select consumer.name::text as name, consumer.transaction::text as transaction, to_json(consumer.timestamp at time zone 'UTC')::text as timestamp,
       consumer.id::text as id, consumer.known::text as known, to_json(consumer.updated at time zone 'UTC')::text as updated,
       waiting.states::text as states,
       (consumer.transaction <> '0'
        and exists (select
                      from flowstates_pruned as pruned
                     where (pruned.transaction, pruned.timestamp, pruned.id) > (consumer.transaction, consumer.timestamp, consumer.id)
                       and not pg_visible_in_snapshot(pruned.pruned_by, consumer.known::pg_snapshot)))::text as is_pruned,
       (extract(epoch from clock_timestamp() - first.created) * 1000000)::bigint::text as behind
  from flowstates_consumer as consumer
 cross join lateral (
       select count(*) as states
         from (select state.id
                 from flow_run_state as state
                where (state.transaction, state.timestamp, state.id) > (consumer.transaction, consumer.timestamp, consumer.id)
                order by state.transaction, state.timestamp, state.id
                limit 100000) as state) as waiting
  left join lateral (
       select state.created
         from flow_run_state as state
        where (state.transaction, state.timestamp, state.id) > (consumer.transaction, consumer.timestamp, consumer.id)
        order by state.transaction, state.timestamp, state.id
        limit 1) as first on true
 order by consumer.name;
