-- create_flow_run_states.present(states text) -> many row
-- Which of some ids are stored, each with its position, whether the content is the given one, and the stored timestamp in microseconds
-- since 1970. The states are a JSON array of arrays of texts: flow_run_id, type, id, timestamp, name, message, state_details, data,
-- result_artifact_id; as one text they cost a third of what nine arrays cost the client.
select given.position::text as position, (extract(epoch from state.timestamp) * 1000000)::bigint::text as timestamp,
       (/* slot: agrees_with_given */ true /* end */)::text as agrees
  from jsonb_array_elements($1::text::jsonb) with ordinality as given (state, position)
  join flow_run_state as state on state.id = (given.state ->> 2)::uuid;
