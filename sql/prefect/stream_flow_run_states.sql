-- stream_flow_run_states() -> many FlowRunState
-- All states that a filter lets through, run by run, each run's oldest first.
-- `data` as in read_flow_run_state.
select flow_run_state.id::text as id, to_json(flow_run_state.created at time zone 'UTC')::text as created,
       to_json(flow_run_state.updated at time zone 'UTC')::text as updated, flow_run_state.flow_run_id::text as flow_run_id,
       flow_run_state.type::text as type, to_json(flow_run_state.timestamp at time zone 'UTC')::text as timestamp, flow_run_state.name::text as name,
       flow_run_state.message::text as message, flow_run_state.state_details::text as state_details,
       case when flow_run_state.data not in ('null', '0', '""', '[]', '{}', 'false')
            then flow_run_state.data::text else artifact.data::text end as data,
       flow_run_state.result_artifact_id::text as result_artifact_id
  from flow_run_state
  left join artifact on artifact.id = flow_run_state.result_artifact_id
 where (/* slot: filter */ true /* end */)
 order by flow_run_state.flow_run_id, flow_run_state.timestamp;
