-- read_flow_run_states(flow_run_id text) -> many FlowRunState
-- The states of one run, oldest first; no rows for an unknown run.
-- An inline value that Python holds for false counts as none; then the artifact's value is the data, as it is. The artifact's
-- column is json and stays text: a cast to jsonb would fail on \u0000 and lose duplicate keys.
select s.id, s.created, s.updated, s.flow_run_id, s.type::text as type, s.timestamp, s.name::text as name, s.message::text as message,
       s.state_details::text as state_details,
       case when s.data not in ('null', '0', '""', '[]', '{}', 'false') then s.data::text else artifact.data::text end as data,
       s.result_artifact_id
  from flow_run_state as s
  left join artifact on artifact.id = s.result_artifact_id
 where s.flow_run_id = $1::text::uuid
 order by s.timestamp;
