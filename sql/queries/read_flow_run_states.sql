-- read_flow_run_states(flow_run_id text) -> many FlowRunState
-- The states of one run, oldest first; no rows for an unknown run.
select id::text as id, to_json(created at time zone 'UTC')::text as created,
       to_json(nullif(updated, created) at time zone 'UTC')::text as updated, flow_run_id::text as flow_run_id, type::text as type,
       to_json(timestamp at time zone 'UTC')::text as timestamp, name::text as name, message::text as message,
       state_details::text as state_details, data::text as data, result_artifact_id::text as result_artifact_id
  from flow_run_state
 where flow_run_id = $1::text::uuid
 order by flow_run_state.timestamp;
