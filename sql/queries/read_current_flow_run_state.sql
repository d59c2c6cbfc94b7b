-- read_current_flow_run_state(flow_run_id text) -> optional FlowRunState
-- The newest state of one run; no row for a run without history.
select id::text as id, to_json(created at time zone 'UTC')::text as created,
       to_json(nullif(updated, created) at time zone 'UTC')::text as updated, flow_run_id::text as flow_run_id, type::text as type,
       to_json(timestamp at time zone 'UTC')::text as timestamp, name::text as name, message::text as message,
       state_details::text as state_details, data::text as data, result_artifact_id::text as result_artifact_id
  from flow_run_state
 where flow_run_id = $1::text::uuid
 order by flow_run_state.timestamp desc
 limit 1;
