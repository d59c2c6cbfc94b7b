-- measure_time_in_states(since text, until text, now text, by text, per_run text, types text[], names text[]) -> many row
-- How often and how long runs were in each type or name inside a window; lengths in microseconds. It reads the whole history of the chosen
-- runs, since a state ends when the next one begins, wherever that is.
with clock as (
    select least(coalesce($3::text::timestamptz, clock_timestamp()), $2::text::timestamptz) as now
), state as (
    select flow_run_state.flow_run_id, flow_run_state.timestamp as begin,
           case $4::text when 'type' then flow_run_state.type::text else flow_run_state.name::text end as key,
           flow_run_state.type::text in ('COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED') as is_terminal,
           ($6::text[] is null or flow_run_state.type::text = any ($6::text[]))
           and ($7::text[] is null or flow_run_state.name::text = any ($7::text[])) as is_shown,
           lead(flow_run_state.timestamp) over run as next
      from flow_run_state
     where (/* slot: filter */ true /* end */)
    window run as (partition by flow_run_state.flow_run_id order by flow_run_state.timestamp)
), part as (
    select flow_run_id, begin, key, is_shown,
           -- A terminal state has no length; neither has an open one that begins after the clock.
           case when is_terminal then begin else greatest(begin, coalesce(next, (select now from clock))) end as until,
           is_shown and (lag(key) over run is distinct from key or not lag(is_shown) over run) as is_first
      from state
    window run as (partition by flow_run_id order by begin)
), numbered as (
    select flow_run_id, begin, until, key, count(*) filter (where is_first) over (partition by flow_run_id order by begin) as visit
      from part
     where is_shown
), visit as (
    -- The window's ends are subqueries, since the server would read their texts again for every row.
    select flow_run_id, key,
           sum((extract(epoch from least(until, (select $2::text::timestamptz)) - greatest(begin, (select $1::text::timestamptz))) * 1000000)::bigint) as length
      from numbered
     -- A length inside the window, or a moment inside it.
     where begin < (select $2::text::timestamptz)
       and (until > (select $1::text::timestamptz) or (until = begin and begin = (select $1::text::timestamptz)))
     group by flow_run_id, visit, key
)
select case when $5::text::boolean then flow_run_id end::text as flow_run_id, key, count(*)::text as visits, sum(length)::bigint::text as total,
       max(length)::bigint::text as longest,
       percentile_disc(0.5) within group (order by length)::bigint::text as p50,
       percentile_disc(0.95) within group (order by length)::bigint::text as p95,
       percentile_disc(0.99) within group (order by length)::bigint::text as p99
  from visit
 group by case when $5::text::boolean then flow_run_id end, key
 order by 1, 2;
