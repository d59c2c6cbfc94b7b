-- stream_flow_run_states.current() -> many FlowRunState
-- All current states that a filter lets through, in the order of runs.
select /* slot: state */ state.* /* end */
  from flow_run
  join flow_run_state as state on /* slot: is_current */ state.id = flow_run.state_id /* end */
 where (/* slot: filter */ true /* end */)
 order by flow_run.id;
