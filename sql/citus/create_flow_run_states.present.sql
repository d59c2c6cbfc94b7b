-- create_flow_run_states.present(states text) -> many row
-- Which of some ids are stored in their runs, each with its position, whether the content is the given one, and the stored timestamp in
-- microseconds since 1970. The states are a JSON array of arrays of texts: flow_run_id, type, id, timestamp, name, message, state_details, data,
-- result_artifact_id.
with given as materialized (
    select position, (state ->> 0)::uuid as flow_run_id, (state ->> 1)::state_type as type, (state ->> 2)::uuid as id,
           (state ->> 3)::timestamptz as timestamp, state ->> 4 as name, state ->> 5 as message, (state ->> 6)::jsonb as state_details,
           (state ->> 7)::jsonb as data, (state ->> 8)::uuid as result_artifact_id
      from jsonb_array_elements($1::text::jsonb) with ordinality as given (state, position)
)
select given.position::text as position, (extract(epoch from stored.timestamp) * 1000000)::bigint::text as timestamp,
       (stored.type = given.type
       -- The asked time, or one that was moved behind a state that had it.
       and (stored.timestamp = coalesce(given.timestamp, stored.timestamp)
           or (stored.timestamp > given.timestamp and exists (
               select
                 from flow_run_state as before
                where before.flow_run_id = stored.flow_run_id
                  and before.timestamp = stored.timestamp - interval '1 microsecond')))
       and stored.name = given.name
       and stored.message is not distinct from given.message
       and stored.state_details = given.state_details
       and stored.data is not distinct from given.data
       and stored.result_artifact_id is not distinct from given.result_artifact_id)::text as agrees
  from given
  join flow_run_state as stored on stored.flow_run_id = given.flow_run_id and stored.id = given.id;
