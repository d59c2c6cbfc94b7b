-- create_flow_run_state.miss(flow_run_id text, type text, id text, timestamp text, name text, message text, state_details text, data text, result_artifact_id text) -> many StoredState
-- After a create that stored nothing, in a newer snapshot: the state under its id, which agrees if its content is what was to be stored,
-- and the run's current state. On a table that is distributed by flow_run_id it asks all shards for the ids.
select id::text as id, to_json(created at time zone 'UTC')::text as created,
       to_json(nullif(updated, created) at time zone 'UTC')::text as updated, flow_run_id::text as flow_run_id, type::text as type,
       to_json(timestamp at time zone 'UTC')::text as timestamp, name::text as name, message::text as message,
       state_details::text as state_details, data::text as data, result_artifact_id::text as result_artifact_id,
       (id = $3::text::uuid
       and flow_run_id = $1::text::uuid
       and type = $2::text::state_type
       and timestamp >= coalesce($4::text::timestamptz, timestamp)
       and name = $5::text
       and message is not distinct from $6::text
       and state_details = $7::text::jsonb
       and data is not distinct from $8::text::jsonb
       and result_artifact_id is not distinct from $9::text::uuid)::text as agrees
  from flow_run_state
 where id = any (array[
           $3::text::uuid,
           (select newest.id
              from flow_run_state as newest
             where newest.flow_run_id = $1::text::uuid
             order by newest.timestamp desc
             limit 1)
       ]);
