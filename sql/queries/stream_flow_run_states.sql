-- stream_flow_run_states() -> many FlowRunState
-- All states that a filter lets through, run by run, each run's oldest first.
select id, created, updated, flow_run_id, type::text as type, timestamp, name::text as name, message::text as message,
       state_details::text as state_details, data::text as data, result_artifact_id
  from flow_run_state
 where (/* slot: filter */ true /* end */)
 order by flow_run_id, timestamp;
