-- create_flow_run_state(flow_run_id text, type text, id text, timestamp text, name text, message text, state_details text, data text, result_artifact_id text, expected_id text, expected_types text[]) -> optional FlowRunState
-- Appends a state to a run's history; no row if the run's current state is not the expected one, if the id is taken, or if another writer made
-- or deleted the run meanwhile. The empty text among the expected types stands for a run without history.
-- Whether the id is free is asked in a caller's transaction only, which a duplicate key would end; elsewhere that error says the same.
with moved as (
    -- A known run. Whoever comes second waits for the row here, and is judged by what it says then.
    update flow_run
       set state_id = $3::text::uuid, state_type = $2::text::state_type, state_name = $5::text,
           state_timestamp = greatest(coalesce($4::text::timestamptz, clock_timestamp()), flow_run.state_timestamp + interval '1 microsecond'),
           -- A writer that got its number early and came late must not be told before what it follows.
           transaction = greatest(pg_current_xact_id(), flow_run.transaction)
     where flow_run.id = $1::text::uuid
       and ($10::text is null or flow_run.state_id = $10::text::uuid)
       and ($11::text[] is null or flow_run.state_type::text = any ($11::text[]))
       and flow_run.state_id <> $3::text::uuid -- a repeat of the current state
       and /* slot: is_free */ not exists (select from flow_run_state where id = $3::text::uuid) /* end */
    returning flow_run.id, flow_run.state_id, flow_run.state_type, flow_run.state_name, flow_run.state_timestamp as timestamp, flow_run.transaction
), made as (
    -- A new run. Not by `on conflict do update`: where the snapshot has a run that was deleted meanwhile, that would pass by the expectation.
    insert into flow_run (id, state_id, state_type, state_name, state_timestamp, transaction)
    select $1::text::uuid, $3::text::uuid, $2::text::state_type, $5::text, coalesce($4::text::timestamptz, clock_timestamp()), pg_current_xact_id()
     where $10::text is null
       and ($11::text[] is null or '' = any ($11::text[]))
       and not exists (select from flow_run where id = $1::text::uuid)
       and /* slot: is_free */ not exists (select from flow_run_state where id = $3::text::uuid) /* end */
        on conflict do nothing
    returning flow_run.id, flow_run.state_id, flow_run.state_type, flow_run.state_name, flow_run.state_timestamp as timestamp, flow_run.transaction
), stored as (
    insert into flow_run_state as state
           (flow_run_id, type, id, timestamp, name, message, state_details, data, result_artifact_id, transaction)
    select $1::text::uuid, $2::text::state_type, $3::text::uuid, at.timestamp, $5::text, $6::text, $7::text::jsonb, $8::text::jsonb,
           $9::text::uuid, at.transaction
      from (select timestamp, transaction from moved union all select timestamp, transaction from made) as at
    returning state.*
)
-- A division by zero where no state was stored, or the run's row does not say what was, which somebody's trigger can do: so neither is.
select /* slot: state */ state.* /* end */
  from (select id, state_id, state_type, state_name, timestamp, transaction from moved
        union all
        select id, state_id, state_type, state_name, timestamp, transaction from made) as at
  left join stored as state on true
 where 1 / coalesce((state.flow_run_id, state.id, state.type, state.name, state.timestamp, state.transaction)
                  = (at.id, at.state_id, at.state_type, at.state_name, at.timestamp, at.transaction), false)::int = 1;
