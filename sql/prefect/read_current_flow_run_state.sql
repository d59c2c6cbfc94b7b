-- read_current_flow_run_state(flow_run_id text) -> optional FlowRunState
-- The state that a run's row names; no row if it names none.
select /* slot: state */ state.* /* end */
  from flow_run
  join flow_run_state as state on state.id = flow_run.state_id
 where flow_run.id = $1::text::uuid;
