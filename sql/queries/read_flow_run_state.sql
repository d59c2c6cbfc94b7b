-- read_flow_run_state(flow_run_state_id text) -> optional FlowRunState
-- One state by its id; no row for an unknown id.
select /* slot: state */ state.* /* end */
  from flow_run_state as state
 where state.id = $1::text::uuid;
