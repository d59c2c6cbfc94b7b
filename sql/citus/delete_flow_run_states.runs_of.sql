-- delete_flow_run_states.runs_of(flow_run_state_ids text[]) -> many row
-- The runs of some states, and the states' ids. An id is unique in its run only, so one may have several.
select state.flow_run_id::text as flow_run_id, state.id::text as id
  from flow_run_state as state
 where state.id = any ($1::text[]::uuid[])
 order by state.flow_run_id, state.id;
