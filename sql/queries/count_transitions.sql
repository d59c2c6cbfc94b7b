-- count_transitions(since text, until text, step text) -> many row
-- How many states of each type began in each interval of a length, counted from `since`; no rows for an interval without any. On our own
-- table an index finds the time; on Prefect's tables it reads all states.
select (extract(epoch from date_bin($3::text::interval, flow_run_state.timestamp, $1::text::timestamptz) - $1::text::timestamptz) * 1000000)::bigint::text as begin,
       flow_run_state.type::text as type, count(*)::text as states
  from flow_run_state
 where flow_run_state.timestamp >= $1::text::timestamptz
   and flow_run_state.timestamp < $2::text::timestamptz
   and (/* slot: filter */ true /* end */)
 group by date_bin($3::text::interval, flow_run_state.timestamp, $1::text::timestamptz), flow_run_state.type;
