-- The next runs from an id on, with the places in the table of their states that are not to stay: as many as make a batch, and at least one run
-- that has some. Prefect has no index for "ended before", so all runs are passed by in the order of their ids. What `state_id` names stays, and
-- a run that names none is left alone: its current state cannot be told. So stays a state that holds the result of a run, unless it is asked for.
candidate as materialized (
    select id, state_id, version, is_asked, row_number() over (order by id) as place
      from (select flow_run.id, flow_run.state_id, flow_run.xmin as version,
                   flow_run.state_id is not null and flow_run.state_type = any ($1::text::state_type[])
                   and coalesce(flow_run.end_time, flow_run.state_timestamp) < $2::text::timestamptz as is_asked
              from flow_run
             -- The empty text is before all ids.
             where flow_run.id >= coalesce(nullif($3::text, '')::uuid, '00000000-0000-0000-0000-000000000000')
               and flow_run.id::text <> $3::text
               and ($6::text is null or flow_run.id = $6::text::uuid)
             order by flow_run.id
             limit $4::text::bigint) as run
), counted as materialized (
    select candidate.id, candidate.version, candidate.place, history.places, cardinality(history.places) as states,
           sum(cardinality(history.places)) over (order by candidate.place) as states_so_far
      from candidate
     cross join lateral (
           select coalesce(array_agg(state.place), '{}') as places
             from (select state.ctid as place, state.id, state.type, state.name, state.result_artifact_id,
                          row_number() over (order by state.timestamp) as from_first,
                          count(*) over () - row_number() over (order by state.timestamp) as after_it
                     from flow_run_state as state
                    where state.flow_run_id = candidate.id and candidate.is_asked) as state
            where state.id <> candidate.state_id
              and (state.from_first > 1 or not $7::text::boolean)
              and state.after_it >= $8::text::bigint
              and state.type::text <> all ($9::text[])
              and state.name::text <> all ($10::text[])
              and (state.result_artifact_id is null or $11::text::boolean)) as history
), looked as materialized (
    select id, version, place, places, states from counted where states_so_far <= $5::text::bigint or states_so_far = states
), chosen as materialized (
    select id, version, places, states from looked where states > 0
), reached as (
    select null::text as timestamp, candidate.id::text as id,
           candidate.place = (select count(*) from candidate) and candidate.place < $4::text::bigint as is_last
      from candidate
     where candidate.place = (select max(place) from looked)
)
