-- create_flow_run_state.together_miss(states text) -> many StoredState
-- After a create of several that did not store all, for those that it did not store and in a newer snapshot: the states under their ids, which
-- agree if their content is what was to be stored, and the current states of their runs. The states are as in create_flow_run_state.together.
select /* slot: state */ state.* /* end */,
       (state.id = (given.state ->> 2)::uuid
       and /* slot: agrees_with_given */ true /* end */)::text as agrees
  from jsonb_array_elements($1::text::jsonb) as given (state)
 cross join lateral (
       select flow_run_state.*
         from flow_run_state
        where flow_run_state.id = any (array[(given.state ->> 2)::uuid,
              (select flow_run.state_id from flow_run where flow_run.id = (given.state ->> 0)::uuid)])
       offset 0) as state;
