-- create_flow_run_state.miss(flow_run_id text, type text, id text, timestamp text, name text, message text, state_details text, data text, result_artifact_id text) -> many StoredState
-- After a create that stored nothing, in a newer snapshot: the state under its id in this run, which agrees if its content is what was to be
-- stored, and the run's current state.
select /* slot: state */ state.* /* end */,
       (/* slot: agrees */ true /* end */)::text as agrees
  from flow_run_state as state
 where state.flow_run_id = $1::text::uuid
   and state.id = any (array[$3::text::uuid, (select flow_run.state_id from flow_run where flow_run.id = $1::text::uuid)]);
