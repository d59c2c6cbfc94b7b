-- count_flow_run_states.current() -> value text
-- How many runs have a current state that a filter lets through. The join is left out where the filter asks nothing of the state.
select count(*)::text as count
  from flow_run
  left join flow_run_state as state on /* slot: is_current */ state.id = flow_run.state_id /* end */
 where (/* slot: filter */ true /* end */);
