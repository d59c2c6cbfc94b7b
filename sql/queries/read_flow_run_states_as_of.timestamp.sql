-- read_flow_run_states_as_of.timestamp(flow_run_ids text, at text) -> many FlowRunState
-- The state of each run that had begun last at a moment, one index probe a run.
select state.id::text as id, to_json(state.created at time zone 'UTC')::text as created,
       to_json(nullif(state.updated, state.created) at time zone 'UTC')::text as updated, state.flow_run_id::text as flow_run_id,
       state.type::text as type, to_json(state.timestamp at time zone 'UTC')::text as timestamp, state.name::text as name,
       state.message::text as message, state.state_details::text as state_details, state.data::text as data,
       state.result_artifact_id::text as result_artifact_id
  from unnest($1::text::uuid[]) as run (id)
 cross join lateral (
       select id, created, updated, flow_run_id, type, timestamp, name, message, state_details, data, result_artifact_id
         from flow_run_state
        where flow_run_id = run.id
          and timestamp <= $2::text::timestamptz
        order by timestamp desc
        limit 1) as state;
