-- measure_time_in_states(since text, until text, now text, by text, per_run text, types text[], names text[]) -> many row
-- How often and how long runs were in each type or name inside a window; lengths in microseconds.
-- Each server reads the histories of its runs that are open or have moved since, up to the window's end. Their windows are told by the run and
-- not by a lateral query, which Citus does not send. Of the state that is the last in the window one more probe tells whether another one ended
-- it. What is asked is a query, so that the clock is one, the coordinator's.
with asked as materialized (
    select $1::text::timestamptz as since, $2::text::timestamptz as until,
           least(coalesce($3::text::timestamptz, clock_timestamp()), $2::text::timestamptz) as now
), visit as (
    select whole.flow_run_id, whole.key,
           (extract(epoch from least(whole.until, asked.until) - greatest(whole.begin, asked.since)) * 1000000)::bigint as length
      from (-- The parts of a visit follow each other without a gap.
            select flow_run_id, key, min(begin) as begin, max(until) as until
              from (select flow_run_id, begin, until, key,
                           count(*) filter (where is_first)
                           over (partition by flow_run_id order by begin rows unbounded preceding) as visit
                      from (select begun.flow_run_id, begun.begin, begun.key, begun.is_shown,
                                   -- A terminal state that nothing follows has no length; neither has an open one that begins after the clock.
                                   greatest(begun.begin, coalesce(begun.next, (select min(state.timestamp)
                                                                                 from flow_run_state as state
                                                                                where state.flow_run_id = begun.flow_run_id
                                                                                  and state.timestamp >= $2::text::timestamptz),
                                                                  case when begun.is_terminal then begun.begin else asked.now end)) as until,
                                   begun.is_shown and (lag(begun.key) over history is distinct from begun.key
                                                       or not lag(begun.is_shown) over history) as is_first
                              from (select state.flow_run_id, state.timestamp as begin,
                                           lead(state.timestamp)
                                           over (partition by state.flow_run_id order by state.timestamp rows unbounded preceding) as next,
                                           case $4::text when 'type' then state.type::text else state.name::text end as key,
                                           state.type::text in ('COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED') as is_terminal,
                                           ($6::text[] is null or state.type::text = any ($6::text[]))
                                           and ($7::text[] is null or state.name::text = any ($7::text[])) as is_shown
                                      from flow_run
                                      join flow_run_state as state on state.flow_run_id = flow_run.id
                                     where (/* slot: moved */ true /* end */)
                                       and (/* slot: filter */ true /* end */)
                                       and state.timestamp < $2::text::timestamptz) as begun
                             cross join asked
                            window history as (partition by begun.flow_run_id order by begun.begin rows unbounded preceding)) as part
                     where is_shown) as numbered
             group by flow_run_id, visit, key) as whole
     cross join asked
     -- A length inside the window, or of a visit that has none its moment.
     where greatest(whole.begin, asked.since) < least(whole.until, asked.until)
        or (whole.until = whole.begin and whole.begin >= asked.since)
)
select case when $5::text::boolean then flow_run_id end::text as flow_run_id, key, count(*)::text as visits, sum(length)::bigint::text as total,
       max(length)::bigint::text as longest,
       percentile_disc(0.5) within group (order by length)::bigint::text as p50,
       percentile_disc(0.95) within group (order by length)::bigint::text as p95,
       percentile_disc(0.99) within group (order by length)::bigint::text as p99
  from visit
 group by case when $5::text::boolean then flow_run_id end, key
 order by 1, 2;
