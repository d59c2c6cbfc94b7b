-- What a FlowRunState is made of, from a row of Prefect's flow_run_state and the artifact that it names.
-- An inline value that Python holds for false counts as none; then the artifact's value is the data, as it is. The artifact's
-- column is json and stays text: a cast to jsonb would fail on \u0000 and lose duplicate keys.
state.id::text as id, to_json(state.created at time zone 'UTC')::text as created,
       to_json(state.updated at time zone 'UTC')::text as updated, state.flow_run_id::text as flow_run_id,
       state.type::text as type, to_json(state.timestamp at time zone 'UTC')::text as timestamp, state.name::text as name,
       state.message::text as message, state.state_details::text as state_details,
       case when state.data not in ('null', '0', '""', '[]', '{}', 'false') then state.data::text
            else (select artifact.data::text from artifact where artifact.id = state.result_artifact_id) end as data,
       state.result_artifact_id::text as result_artifact_id
