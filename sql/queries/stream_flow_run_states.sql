-- stream_flow_run_states() -> many FlowRunState
-- All states that a filter lets through, run by run, each run's oldest first.
select id::text as id, to_json(created at time zone 'UTC')::text as created,
       to_json(nullif(updated, created) at time zone 'UTC')::text as updated, flow_run_id::text as flow_run_id, type::text as type,
       to_json(timestamp at time zone 'UTC')::text as timestamp, name::text as name, message::text as message,
       state_details::text as state_details, data::text as data, result_artifact_id::text as result_artifact_id
  from flow_run_state
 where (/* slot: filter */ true /* end */)
 order by flow_run_state.flow_run_id, flow_run_state.timestamp;
