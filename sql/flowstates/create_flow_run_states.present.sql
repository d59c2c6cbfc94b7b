-- create_flow_run_states.present(states text) -> many row
-- Which of some ids are stored, each with its position, whether the content is the given one, and the stored timestamp in microseconds
-- since 1970. The states are a JSON array of arrays of texts: flow_run_id, type, id, timestamp, name, message, state_details, data,
-- result_artifact_id; as one text they cost a third of what nine arrays cost the client. On a table that is distributed by flow_run_id it
-- asks all shards.
select given.position::text as position, (extract(epoch from stored.timestamp) * 1000000)::bigint::text as timestamp,
       (stored.flow_run_id = (given.state ->> 0)::uuid
       and stored.type = (given.state ->> 1)::state_type
       and stored.timestamp >= coalesce((given.state ->> 3)::timestamptz, stored.timestamp)
       and stored.name = given.state ->> 4
       and stored.message is not distinct from given.state ->> 5
       and stored.state_details = (given.state ->> 6)::jsonb
       and stored.data is not distinct from (given.state ->> 7)::jsonb
       and stored.result_artifact_id is not distinct from (given.state ->> 8)::uuid)::text as agrees
  from jsonb_array_elements($1::text::jsonb) with ordinality as given (state, position)
  join flow_run_state as stored on stored.id = (given.state ->> 2)::uuid;
