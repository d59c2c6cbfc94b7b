-- read_flow_run_state_page.run(flow_run_id text, timestamp text, most text) -> many FlowRunState
-- States that a filter lets through after a position in the order of runs.
-- The position is never null, since a condition that can be left out would cost the index in a generic plan.
select /* slot: state */ state.* /* end */
  from flow_run_state as state
 where (state.flow_run_id, state.timestamp) > ($1::text::uuid, $2::text::timestamptz)
   and (/* slot: filter */ true /* end */)
 order by state.flow_run_id, state.timestamp
 limit $3::text::bigint;
