-- create_flow_run_states.heads(flow_run_ids text[]) -> many row
-- Where each run's history ends, of runs that are locked, and the clock of the run's server; times in microseconds since 1970, null for a run
-- without history.
select id::text as flow_run_id, (extract(epoch from nullif(state_timestamp, '-infinity')) * 1000000)::bigint::text as timestamp,
       null::text as transaction, (extract(epoch from clock_timestamp()) * 1000000)::bigint::text as now, 'false'::text as may_change
  from flow_run
 where id = any ($1::text[]::uuid[]);
