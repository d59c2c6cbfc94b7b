-- The next runs of a type whose last state is before a time, from a position on, with the places in the table of their states that are not to
-- stay: as many as make a batch, and at least one run that has some. The current state stays.
/* slot: candidate */ candidate as (
    select id, state_id, state_timestamp, xmin as version, 1 as place from flow_run
) /* end */, counted as materialized (
    select candidate.id, candidate.version, candidate.place, history.places, cardinality(history.places) as states,
           sum(cardinality(history.places)) over (order by candidate.place) as states_so_far
      from candidate
     cross join lateral (
           select coalesce(array_agg(state.place), '{}') as places
             from (select state.ctid as place, state.id, state.type, state.name, row_number() over (order by state.timestamp) as from_first,
                          count(*) over () - row_number() over (order by state.timestamp) as after_it
                     from flow_run_state as state
                    where state.flow_run_id = candidate.id) as state
            where state.id <> candidate.state_id
              and (state.from_first > 1 or not $8::text::boolean)
              and state.after_it >= $9::text::bigint
              and state.type::text <> all ($10::text[])
              and state.name::text <> all ($11::text[])) as history
), looked as materialized (
    select id, version, place, places, states from counted where states_so_far <= $6::text::bigint or states_so_far = states
), chosen as materialized (
    select id, version, places, states from looked where states > 0
), reached as (
    select to_json(candidate.state_timestamp at time zone 'UTC')::text as timestamp, candidate.id::text as id,
           candidate.place = (select count(*) from candidate) and candidate.place < $5::text::bigint as is_last
      from candidate
     where candidate.place = (select max(place) from looked)
)
