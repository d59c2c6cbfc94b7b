-- create_flow_run_state(flow_run_id text, type text, id text, timestamp text, name text, message text, state_details text, data text, result_artifact_id text, expected_id text, expected_types text[]) -> optional FlowRunState
-- Appends a state to a run's history; no row if the run's current state is not the expected one, if the id is taken in the run, or if another
-- writer made the run meanwhile. The empty text among the expected types stands for a run without history.
-- Citus sends the call to the run's server because its first argument is a parameter: one that it had to compute would run here, on no lock.
select /* slot: state */ state.* /* end */
  from append_flow_run_state($1::text::uuid, $2::text, $3::text::uuid, $4::text, $5::text, $6::text, $7::text::jsonb, $8::text::jsonb, $9::text::uuid,
                             $10::text::uuid, $11::text[], 'flow_run'::regclass) as state;
