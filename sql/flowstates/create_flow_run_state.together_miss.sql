-- create_flow_run_state.together_miss(states text) -> many StoredState
-- After a create of several that did not store all, for those that it did not store and in a newer snapshot: the states under their ids, which
-- agree if their content is what was to be stored, and the current states of their runs. The states are as in create_flow_run_state.together.
select /* slot: state */ state.* /* end */,
       (state.id = (given.state ->> 2)::uuid
       and state.flow_run_id = (given.state ->> 0)::uuid
       and state.type = (given.state ->> 1)::state_type
       -- The asked time, or one that was moved behind the state that it follows.
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
       and state.result_artifact_id is not distinct from (given.state ->> 8)::uuid)::text as agrees
  from jsonb_array_elements($1::text::jsonb) as given (state)
 cross join lateral (
       select flow_run_state.*
         from flow_run_state
        where flow_run_state.id = any (array[(given.state ->> 2)::uuid,
              (select flow_run.state_id from flow_run where flow_run.id = (given.state ->> 0)::uuid)])
       offset 0) as state;
