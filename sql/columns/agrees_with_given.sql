-- Whether a state that is stored is the one that was to be stored, of those given as JSON arrays.
state.flow_run_id = (given.state ->> 0)::uuid
       and state.type = (given.state ->> 1)::state_type
       -- The asked time, or one that was moved behind a state that had it, or that it follows.
       and (state.timestamp = coalesce((given.state ->> 3)::timestamptz, state.timestamp)
           or (state.timestamp > (given.state ->> 3)::timestamptz and exists (
               select
                 from flow_run_state as before
                where before.flow_run_id = state.flow_run_id
                  and before.timestamp = state.timestamp - interval '1 microsecond')))
       and state.name = given.state ->> 4
       and state.message is not distinct from given.state ->> 5
       and state.state_details = (given.state ->> 6)::jsonb
       and state.data is not distinct from (given.state ->> 7)::jsonb
       and state.result_artifact_id is not distinct from (given.state ->> 8)::uuid
