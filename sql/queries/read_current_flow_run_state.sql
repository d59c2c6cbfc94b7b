-- read_current_flow_run_state(flow_run_id text) -> optional FlowRunState
-- The newest state of one run, by one probe of the index on histories; no row for a run without history.
select /* slot: state */ state.* /* end */
  from flow_run_state as state
 where state.flow_run_id = $1::text::uuid
 order by state.timestamp desc
 limit 1;
