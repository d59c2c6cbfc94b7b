-- read_flow_run_state_page.current_run(flow_run_id text, seen text, most text) -> many FlowRunState
-- Current states that a filter lets through after a position in the order of runs.
-- The run that was seen last is left out by itself: no id lies outside of all ids, where the first page begins.
select /* slot: state */ state.* /* end */
  from flow_run
  join flow_run_state as state on /* slot: is_current */ state.id = flow_run.state_id /* end */
 where flow_run.id >= $1::text::uuid
   and flow_run.id is distinct from $2::text::uuid
   and (/* slot: filter */ true /* end */)
 order by flow_run.id
 limit $3::text::bigint;
