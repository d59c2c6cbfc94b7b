-- read_flow_run_state(flow_run_state_id text) -> optional FlowRunState
-- One state by its id; no row for an unknown id.
select id, created, updated, flow_run_id, type::text as type, timestamp, name::text as name, message::text as message,
       state_details::text as state_details, data::text as data, result_artifact_id
  from flow_run_state
 where id = $1::text::uuid;
