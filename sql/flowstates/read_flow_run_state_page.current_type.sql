-- read_flow_run_state_page.current_type(timestamp text, flow_run_id text, most text, type text) -> many FlowRunState
-- Current states of one type that a filter lets through after a position in the order of time and, at one time, of runs.
-- As one type is at one place in the index, nothing is sorted. The limit inside is one that the planner knows: the most of a page and one.
select /* slot: state */ state.* /* end */
  from (select flow_run.id, flow_run.state_id, flow_run.state_timestamp
          from flow_run
         where flow_run.state_type = $4::text::state_type
           and (flow_run.state_timestamp, flow_run.id) > ($1::text::timestamptz, $2::text::uuid)
           and (/* slot: filter */ true /* end */)
         order by flow_run.state_timestamp, flow_run.id
         limit 1001) as flow_run
 cross join lateral (select flow_run_state.* from flow_run_state where flow_run_state.id = flow_run.state_id limit 1) as state
 order by flow_run.state_timestamp, flow_run.id
 limit $3::text::bigint;
