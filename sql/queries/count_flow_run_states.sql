-- count_flow_run_states() -> value int8
-- How many states a filter lets through.
select count(*) as count
  from flow_run_state
 where (/* slot: filter */ true /* end */);
