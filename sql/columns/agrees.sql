-- Whether a state that is stored is the one that was to be stored.
state.id = $3::text::uuid
       and state.flow_run_id = $1::text::uuid
       and state.type = $2::text::state_type
       -- The asked time, or one that was moved behind the state that it follows.
       and (state.timestamp = coalesce($4::text::timestamptz, state.timestamp)
           or (state.timestamp > $4::text::timestamptz and exists (
               select
                 from flow_run_state as before
                where before.flow_run_id = state.flow_run_id
                  and before.timestamp = state.timestamp - interval '1 microsecond')))
       and state.name = $5::text
       and state.message is not distinct from $6::text
       and state.state_details = $7::text::jsonb
       and state.data is not distinct from $8::text::jsonb
       and state.result_artifact_id is not distinct from $9::text::uuid
