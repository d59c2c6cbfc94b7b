-- stream_flow_run_states() -> many FlowRunState
-- All states that a filter lets through, run by run, each run's oldest first.
select /* slot: state */ state.* /* end */
  from flow_run_state as state
 where (/* slot: filter */ true /* end */)
 order by state.flow_run_id, state.timestamp;
