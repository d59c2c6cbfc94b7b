-- read_flow_run_states(flow_run_id text) -> many FlowRunState
-- The states of one run, oldest first; no rows for an unknown run.
select /* slot: state */ state.* /* end */
  from flow_run_state as state
 where state.flow_run_id = $1::text::uuid
 order by state.timestamp;
