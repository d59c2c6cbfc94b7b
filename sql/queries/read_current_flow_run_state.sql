-- read_current_flow_run_state(flow_run_id text) -> optional FlowRunState
-- The newest state of one run; no row for a run without history.
select id, created, updated, flow_run_id, type::text as type, timestamp, name::text as name, message::text as message,
       state_details::text as state_details, data::text as data, result_artifact_id
  from flow_run_state
 where flow_run_id = $1::text::uuid
 order by timestamp desc
 limit 1;
