-- create_flow_run_states.taken(flow_run_ids text[], since text[]) -> many row
-- The timestamps that are taken in some runs, for each from a time on, in microseconds since 1970.
with run as materialized (
    select id, since from unnest($1::text[]::uuid[], $2::text[]::timestamptz[]) as run (id, since)
)
select stored.flow_run_id::text as flow_run_id, (extract(epoch from stored.timestamp) * 1000000)::bigint::text as timestamp
  from run
  join flow_run_state as stored on stored.flow_run_id = run.id and stored.timestamp >= run.since;
