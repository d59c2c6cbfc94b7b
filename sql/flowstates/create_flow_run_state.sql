-- create_flow_run_state(flow_run_id text, type text, id text, timestamp text, name text, message text, state_details text, data text, result_artifact_id text, expected_id text, expected_types text[]) -> optional FlowRunState
-- Appends a state to a run's history; no row if another writer was first, if the run's current state is not the expected one, or if the
-- id is taken. The empty text among the expected types stands for a run without history.
-- The insert stays on top and not inside a CTE: Citus would plan that as a step of its own. The two reads lock what the new state
-- follows against a delete, which could otherwise free a number for a second writer that saw another history; where one that waited has
-- an older view than that, the table's trigger undoes the statement (40001).
-- The next number is the run's highest plus one, not the current state's: after a backfill the newest by time need not be the highest.
insert into flow_run_state (flow_run_id, type, id, timestamp, name, message, state_details, data, result_artifact_id, sequence)
select $1::text::uuid, $2::text::state_type, $3::text::uuid,
       greatest(coalesce($4::text::timestamptz, clock_timestamp()), current.timestamp + interval '1 microsecond'),
       $5::text, $6::text, $7::text::jsonb, $8::text::jsonb, $9::text::uuid, coalesce(highest.sequence, 0) + 1
  from (values (true)) as one (row)
  left join lateral (
       select id, type, timestamp
         from flow_run_state
        where flow_run_id = $1::text::uuid
        order by timestamp desc
        limit 1
          for key share) as current on true
  left join lateral (
       select sequence
         from flow_run_state
        where flow_run_id = $1::text::uuid
        order by sequence desc
        limit 1
          for key share) as highest on true
 where ($10::text is null or current.id = $10::text::uuid)
   and ($11::text[] is null or coalesce(current.type::text, '') = any ($11::text[]))
    on conflict do nothing
returning id::text as id, to_json(created at time zone 'UTC')::text as created,
       to_json(nullif(updated, created) at time zone 'UTC')::text as updated, flow_run_id::text as flow_run_id, type::text as type,
       to_json(timestamp at time zone 'UTC')::text as timestamp, name::text as name, message::text as message,
       state_details::text as state_details, data::text as data, result_artifact_id::text as result_artifact_id;
