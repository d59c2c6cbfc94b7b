-- The next runs of a type whose last state is before a time, from a position on: as many as make a batch of states, and at least one.
candidate as materialized (
    select id, state_id, state_timestamp, version, row_number() over (order by state_timestamp, id) as place
      from (select flow_run.id, flow_run.state_id, flow_run.state_timestamp, flow_run.xmin as version
              from flow_run
             where flow_run.state_type = $1::text::state_type
               and flow_run.state_timestamp < $2::text::timestamptz
               and (flow_run.state_timestamp, flow_run.id) > ($3::text::timestamptz, $4::text::uuid)
               and ($7::text is null or flow_run.id = $7::text::uuid)
             order by flow_run.state_timestamp, flow_run.id
             limit $5::text::bigint) as run
), counted as materialized (
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
