-- create_flow_run_states.present(flow_run_ids text[], types text[], ids text[], timestamps text[], names text[], messages text[], state_details text[], data text[], result_artifact_ids text[]) -> many row
-- Which of the given ids are stored, by their position from 1 on, whether the content is the given one, and the stored timestamp in
-- microseconds since 1970. On a table that is distributed by flow_run_id it asks all shards.
select given.position, (extract(epoch from stored.timestamp) * 1000000)::bigint as timestamp,
       stored.flow_run_id = given.flow_run_id
       and stored.type = given.type
       and stored.timestamp >= coalesce(given.timestamp, stored.timestamp)
       and stored.name = given.name
       and stored.message is not distinct from given.message
       and stored.state_details = given.state_details
       and stored.data is not distinct from given.data
       and stored.result_artifact_id is not distinct from given.result_artifact_id as agrees
  from unnest($1::text[]::uuid[], $2::text[]::state_type[], $3::text[]::uuid[], $4::text[]::timestamptz[], $5::text[], $6::text[],
              $7::text[]::jsonb[], $8::text[]::jsonb[], $9::text[]::uuid[]) with ordinality
       as given (flow_run_id, type, id, timestamp, name, message, state_details, data, result_artifact_id, position)
  join flow_run_state as stored on stored.id = given.id;
