-- count_transitions(since text, until text, step text) -> many row
-- How many states of each type began in each interval of a length, counted from `since`; no rows for an interval without any. On our own
-- table an index finds the time; on Prefect's tables it reads all states.
-- The parameters are subqueries where they would be read as text again for every row.
with counted as (
    select date_bin((select $3::text::interval), flow_run_state.timestamp, (select $1::text::timestamptz)) as begin,
           flow_run_state.type, count(*) as states
      from flow_run_state
     where flow_run_state.timestamp >= $1::text::timestamptz
       and flow_run_state.timestamp < $2::text::timestamptz
       and (/* slot: filter */ true /* end */)
     group by 1, 2
)
select (extract(epoch from begin - $1::text::timestamptz) * 1000000)::bigint::text as begin, type::text as type, states::text as states
  from counted;
