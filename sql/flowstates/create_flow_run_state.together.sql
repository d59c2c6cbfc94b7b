-- create_flow_run_state.together(states text) -> many FlowRunState
-- Appends a state to each of some runs; no row for one whose run's current state is not the expected one, whose id is taken, or whose run is
-- another writer's at the moment: that one waits for nobody here, so that the others need not wait with it.
-- The states are a JSON array of arrays, a run and an id at most once: flow_run_id, type, id, timestamp, name, message, state_details, data,
-- result_artifact_id, expected_id as texts, and expected_types as an array, where the empty text stands for a run without history.
with given as materialized (
    select (state ->> 0)::uuid as flow_run_id, (state ->> 1)::state_type as type, (state ->> 2)::uuid as id, (state ->> 3)::timestamptz as timestamp,
           state ->> 4 as name, state ->> 5 as message, (state ->> 6)::jsonb as state_details, (state ->> 7)::jsonb as data,
           (state ->> 8)::uuid as result_artifact_id, (state ->> 9)::uuid as expected_id, nullif(state -> 10, 'null') as expected_types
      from jsonb_array_elements($1::text::jsonb) as given (state)
     -- An index probe each, by `offset 0`, also where the plan was made when the table was small.
     where not exists (select from flow_run_state where id = (given.state ->> 2)::uuid offset 0)
     order by 1
), held as materialized (
    -- Known runs, in the order of their ids, each judged by what its row says when it is locked.
    select given.flow_run_id, given.type, given.id, given.timestamp, given.name
      from given
     cross join lateral (
           select state_id, state_type from flow_run where flow_run.id = given.flow_run_id for no key update skip locked) as run
     where (given.expected_id is null or run.state_id = given.expected_id)
       and (given.expected_types is null or given.expected_types ? run.state_type::text)
       and run.state_id <> given.id -- stored by another since this statement began
), moved as (
    update flow_run
       set state_id = held.id, state_type = held.type, state_name = held.name,
           state_timestamp = greatest(coalesce(held.timestamp, clock_timestamp()), flow_run.state_timestamp + interval '1 microsecond'),
           transaction = greatest(pg_current_xact_id(), flow_run.transaction)
      from held
     where flow_run.id = held.flow_run_id
    returning flow_run.id, flow_run.state_id, flow_run.state_type, flow_run.state_name, flow_run.state_timestamp as timestamp, flow_run.transaction
), made as (
    -- New runs, as in create_flow_run_state. Where somebody else makes the same one, this waits for them.
    insert into flow_run (id, state_id, state_type, state_name, state_timestamp, transaction)
    select given.flow_run_id, given.id, given.type, given.name, coalesce(given.timestamp, clock_timestamp()), pg_current_xact_id()
      from given
     where given.expected_id is null
       and (given.expected_types is null or given.expected_types ? '')
       and not exists (select from flow_run where flow_run.id = given.flow_run_id offset 0)
     order by given.flow_run_id
        on conflict do nothing
    returning flow_run.id, flow_run.state_id, flow_run.state_type, flow_run.state_name, flow_run.state_timestamp as timestamp, flow_run.transaction
), stored as (
    insert into flow_run_state as state
           (flow_run_id, type, id, timestamp, name, message, state_details, data, result_artifact_id, transaction)
    select given.flow_run_id, given.type, given.id, at.timestamp, given.name, given.message, given.state_details, given.data,
           given.result_artifact_id, at.transaction
      -- The new runs first: what is waited for is waited for before a known run is locked.
      from (select id, timestamp, transaction from made union all select id, timestamp, transaction from moved) as at
      join given on given.flow_run_id = at.id
    returning state.*
)
-- A division by zero where a state was not stored, or its run's row does not say what was, which somebody's trigger can do: so none is.
select /* slot: state */ state.* /* end */
  from (select id, state_id, state_type, state_name, timestamp, transaction from made
        union all
        select id, state_id, state_type, state_name, timestamp, transaction from moved) as at
  left join stored as state on state.flow_run_id = at.id
 where 1 / coalesce((state.flow_run_id, state.id, state.type, state.name, state.timestamp, state.transaction)
                  = (at.id, at.state_id, at.state_type, at.state_name, at.timestamp, at.transaction), false)::int = 1;
