-- count_occupancy(since text, last text, step text) -> many row
-- By how much the number of runs whose newest state is of a type changes at each tick, in microseconds from `since`; the first tick has all
-- that was before. A run counts from the first tick at or after its state.
-- One pass over the states up to the last tick: the window reads the unique index in its order, and rows are counted together before they
-- are turned into changes.
with moved as (
    select case when state.timestamp <= $1::text::timestamptz then $1::text::timestamptz
                else date_bin($3::text::interval, state.timestamp - interval '1 microsecond', $1::text::timestamptz) + $3::text::interval end as tick,
           state.type, state.previous, count(*) as runs
      from (
           select flow_run_state.timestamp, flow_run_state.type,
                  lag(flow_run_state.type) over (partition by flow_run_state.flow_run_id order by flow_run_state.timestamp) as previous
             from flow_run_state
            where flow_run_state.timestamp <= $2::text::timestamptz
              and (/* slot: filter */ true /* end */)
           ) as state
     group by 1, 2, 3
), change as (
    select tick, type, runs from moved where type is distinct from previous
     union all
    select tick, previous, -runs from moved where type is distinct from previous and previous is not null
)
select (extract(epoch from tick - $1::text::timestamptz) * 1000000)::bigint::text as begin, type::text as type, sum(runs)::bigint::text as runs
  from change
 group by tick, type;
