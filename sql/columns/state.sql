-- What a FlowRunState is made of, from a row of flow_run_state. `updated` is null where it is equal to `created`, which it always is.
state.id::text as id, to_json(state.created at time zone 'UTC')::text as created,
       to_json(nullif(state.updated, state.created) at time zone 'UTC')::text as updated, state.flow_run_id::text as flow_run_id,
       state.type::text as type, to_json(state.timestamp at time zone 'UTC')::text as timestamp, state.name::text as name,
       state.message::text as message, state.state_details::text as state_details, state.data::text as data,
       state.result_artifact_id::text as result_artifact_id
