-- count_occupancy(since text, last text, step text, terminal text) -> many row
-- By how much the number of runs whose newest state is of a type changes at each tick, in microseconds from `since`; the first tick has all
-- that was before. A run counts from the first tick at or after its state.
-- Each server reads the histories of its runs that are open or have moved since, and counts them. Their windows are told by the run and not by a
-- lateral query, which Citus does not send. What ended before the window is counted by the runs' rows, if terminal types are asked for.
-- A bin begins one microsecond after a tick and ends with the next, which is the one that counts its states.
with moved as (
    select date_bin($3::text::interval, greatest(state.timestamp, $1::text::timestamptz), $1::text::timestamptz + interval '1 microsecond') as bin,
           state.type, state.previous, count(*) as runs
      from (select state.flow_run_id, state.timestamp, state.type,
                   lag(state.type) over (partition by state.flow_run_id order by state.timestamp rows unbounded preceding) as previous
              from flow_run
              join flow_run_state as state on state.flow_run_id = flow_run.id
             where (/* slot: moved */ true /* end */)
               and (/* slot: filter */ true /* end */)
               and state.timestamp <= $2::text::timestamptz) as state
     group by 1, 2, 3
), change as (
    select bin, type, runs from moved where type is distinct from previous
     union all
    select bin, previous, -runs from moved where type is distinct from previous and previous is not null
     union all
    select $1::text::timestamptz - $3::text::interval + interval '1 microsecond', flow_run.state_type, count(*)
      from flow_run
     where $4::text::boolean
       and (/* slot: moved */ true /* end */) is not true
       and (/* slot: filter */ true /* end */)
     group by flow_run.state_type
)
select (extract(epoch from bin + $3::text::interval - interval '1 microsecond' - $1::text::timestamptz) * 1000000)::bigint::text as begin,
       type::text as type, sum(runs)::bigint::text as runs
  from change
 group by bin, type;
