-- measure_time_in_states(since text, until text, now text, by text, per_run text, types text[], names text[]) -> many row
-- How often and how long runs were in each type or name inside a window; lengths in microseconds.
-- The histories of runs that are open or have moved since are read up to the window's end, in the order of the index, which finds neighbours on
-- one page. The runs are materialized, or a plan would take that order from an index that has all runs. Of the state that is the last in the
-- window one more probe tells whether another one ended it. Windows are of rows, as in a range the server would look for peers.
with clock as (
    select least(coalesce($3::text::timestamptz, clock_timestamp()), $2::text::timestamptz) as now
), run as materialized (
    select flow_run.id
      from flow_run
     where (/* slot: moved */ true /* end */)
       and (/* slot: filter */ true /* end */)
), visit as (
    select run.id as flow_run_id, visit.key, visit.length
      from (select id from run order by id) as run
     cross join lateral (
           with begun as (
               select state.timestamp as begin, lead(state.timestamp) over (order by state.timestamp rows unbounded preceding) as next,
                      case $4::text when 'type' then state.type::text else state.name::text end as key,
                      state.type::text in ('COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED') as is_terminal,
                      ($6::text[] is null or state.type::text = any ($6::text[]))
                      and ($7::text[] is null or state.name::text = any ($7::text[])) as is_shown
                 from flow_run_state as state
                where state.flow_run_id = run.id
                  and state.timestamp < (select $2::text::timestamptz)
           ), part as (
               select begin, key, is_shown,
                      -- A terminal state that nothing follows has no length; neither has an open one that begins after the clock.
                      greatest(begin, coalesce(next, (select min(state.timestamp)
                                                        from flow_run_state as state
                                                       where state.flow_run_id = run.id
                                                         and state.timestamp >= (select $2::text::timestamptz)),
                                               case when is_terminal then begin else (select now from clock) end)) as until,
                      is_shown and (lag(key) over history is distinct from key or not lag(is_shown) over history) as is_first
                 from begun
               window history as (order by begin rows unbounded preceding)
           ), numbered as (
               select begin, until, key, count(*) filter (where is_first) over (order by begin rows unbounded preceding) as visit
                 from part
                where is_shown
           ), whole as (
               -- The parts of a visit follow each other without a gap.
               select key, min(begin) as begin, max(until) as until from numbered group by visit, key
           )
           -- The window's ends are subqueries, since the server would read their texts again for every row.
           select key, (extract(epoch from least(until, (select $2::text::timestamptz)) - greatest(begin, (select $1::text::timestamptz)))
                        * 1000000)::bigint as length
             from whole
            -- A length inside the window, or of a visit that has none its moment.
            where greatest(begin, (select $1::text::timestamptz)) < least(until, (select $2::text::timestamptz))
               or (until = begin and begin >= (select $1::text::timestamptz))
           ) as visit
)
select case when $5::text::boolean then flow_run_id end::text as flow_run_id, key, count(*)::text as visits, sum(length)::bigint::text as total,
       max(length)::bigint::text as longest,
       percentile_disc(0.5) within group (order by length)::bigint::text as p50,
       percentile_disc(0.95) within group (order by length)::bigint::text as p95,
       percentile_disc(0.99) within group (order by length)::bigint::text as p99
  from visit
 group by case when $5::text::boolean then flow_run_id end, key
 order by 1, 2;
