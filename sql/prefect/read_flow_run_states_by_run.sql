-- read_flow_run_states_by_run(flow_run_ids text, last text) -> many FlowRunState
-- The newest states of each run, newest first within a run, one index probe a run.
-- `data` as in read_flow_run_state.
select state.id::text as id, to_json(state.created at time zone 'UTC')::text as created,
       to_json(state.updated at time zone 'UTC')::text as updated, state.flow_run_id::text as flow_run_id,
       state.type::text as type, to_json(state.timestamp at time zone 'UTC')::text as timestamp, state.name::text as name,
       state.message::text as message, state.state_details::text as state_details,
       case when state.data not in ('null', '0', '""', '[]', '{}', 'false')
            then state.data::text else artifact.data::text end as data,
       state.result_artifact_id::text as result_artifact_id
  from unnest($1::text::uuid[]) as run (id)
 cross join lateral (
       select id, created, updated, flow_run_id, type, timestamp, name, message, state_details, data, result_artifact_id
         from flow_run_state
        where flow_run_id = run.id
        order by timestamp desc
        limit $2::text::bigint) as state
  left join artifact on artifact.id = state.result_artifact_id;
