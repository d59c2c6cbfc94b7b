-- count_flow_run_states() -> value text
-- How many states a filter lets through.
select count(*)::text as count
  from flow_run_state as state
 where (/* slot: filter */ true /* end */);
