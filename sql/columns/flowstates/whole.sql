-- The next runs of a type whose last state is before a time, from a position on: as many as make a batch of states, and at least one.
/* slot: candidate */ candidate as (
    select id, state_id, state_timestamp, xmin as version, 1 as place from flow_run
) /* end */, counted as materialized (
    select candidate.id, candidate.version, candidate.place, history.states, sum(history.states) over (order by candidate.place) as states_so_far
      from candidate
     cross join lateral (select count(*) as states from flow_run_state as state where state.flow_run_id = candidate.id) as history
), looked as materialized (
    select id, version, place, states from counted where states_so_far <= $6::text::bigint or place = 1
), chosen as materialized (
    select id, version, states from looked
), reached as (
    select to_json(candidate.state_timestamp at time zone 'UTC')::text as timestamp, candidate.id::text as id,
           candidate.place = (select count(*) from candidate) and candidate.place < $5::text::bigint as is_last
      from candidate
     where candidate.place = (select max(place) from looked)
)
