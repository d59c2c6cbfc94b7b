-- count_transitions(since text, step text) -> many row
-- How many states of each type that a filter lets through began in each interval of a length, counted from `since`; no rows for an interval
-- without any. The filter has the window.
-- The parameters are subqueries where they would be read as text again for every row.
with counted as (
    select date_bin((select $2::text::interval), state.timestamp, (select $1::text::timestamptz)) as begin, state.type, count(*) as states
      from flow_run_state as state
     where (/* slot: filter */ true /* end */)
     group by 1, 2
)
select (extract(epoch from begin - $1::text::timestamptz) * 1000000)::bigint::text as begin, type::text as type, states::text as states
  from counted;
