-- delete_flow_run_states.of_run(flow_run_id text, flow_run_state_ids text[]) -> values text
-- Deletes states of a run by their ids, for null all of them, and gives the ids that went.
-- Citus sends the call to the run's server because its first argument is a parameter.
select gone.id::text as id
  from delete_flow_run_states($1::text::uuid, $2::text[]::uuid[], 'flow_run'::regclass) as gone (id);
