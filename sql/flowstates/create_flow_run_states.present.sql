-- create_flow_run_states.present(states text) -> many row
-- Which of some ids are stored, each with its position, whether the content is the given one, and the stored timestamp in microseconds
-- since 1970. The states are a JSON array of arrays of texts: flow_run_id, type, id, timestamp, name, message, state_details, data,
-- result_artifact_id; as one text they cost a third of what nine arrays cost the client.
select given.position::text as position, (extract(epoch from stored.timestamp) * 1000000)::bigint::text as timestamp,
       (stored.flow_run_id = (given.state ->> 0)::uuid
       and stored.type = (given.state ->> 1)::state_type
       -- The asked time, or one that was moved behind a state that had it.
       and (stored.timestamp = coalesce((given.state ->> 3)::timestamptz, stored.timestamp)
           or (stored.timestamp > (given.state ->> 3)::timestamptz and exists (
               select
                 from flow_run_state as before
                where before.flow_run_id = stored.flow_run_id
                  and before.timestamp = stored.timestamp - interval '1 microsecond')))
       and stored.name = given.state ->> 4
       and stored.message is not distinct from given.state ->> 5
       and stored.state_details = (given.state ->> 6)::jsonb
       and stored.data is not distinct from (given.state ->> 7)::jsonb
       and stored.result_artifact_id is not distinct from (given.state ->> 8)::uuid)::text as agrees
  from jsonb_array_elements($1::text::jsonb) with ordinality as given (state, position)
  join flow_run_state as stored on stored.id = (given.state ->> 2)::uuid;
