-- read_flow_run_state(flow_run_state_id text) -> optional FlowRunState
-- One state by its id; no row for an unknown id.
select id::text as id, to_json(created at time zone 'UTC')::text as created,
       to_json(nullif(updated, created) at time zone 'UTC')::text as updated, flow_run_id::text as flow_run_id, type::text as type,
       to_json(timestamp at time zone 'UTC')::text as timestamp, name::text as name, message::text as message,
       state_details::text as state_details, data::text as data, result_artifact_id::text as result_artifact_id
  from flow_run_state
 where id = $1::text::uuid;
