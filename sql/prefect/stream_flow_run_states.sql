-- stream_flow_run_states() -> many FlowRunState
-- All states, run by run, each run's oldest first; `data` as in read_flow_run_state.
select s.id, s.created, s.updated, s.flow_run_id, s.type::text as type, s.timestamp, s.name::text as name, s.message::text as message,
       s.state_details::text as state_details,
       case when s.data not in ('null', '0', '""', '[]', '{}', 'false') then s.data::text else artifact.data::text end as data,
       s.result_artifact_id
  from flow_run_state as s
  left join artifact on artifact.id = s.result_artifact_id
 order by s.flow_run_id, s.timestamp;
