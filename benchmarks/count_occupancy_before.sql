-- count_occupancy(since text, last text, step text) -> many row
-- By how much the number of runs whose newest state is of a type changes at each tick, in microseconds from `since`; the first tick has all
-- that was before. A run counts from the first tick at or after its state.
-- One pass over the states up to the last tick: the window reads the unique index in its order, and rows are counted together before they
-- are turned into changes. Parameters are subqueries where the server would read their texts again for every row. A bin begins one
-- microsecond after a tick and ends with the next, which is the one that counts its states.
with moved as (
    select date_bin((select $3::text::interval), greatest(state.timestamp, (select $1::text::timestamptz)),
                    (select $1::text::timestamptz + interval '1 microsecond')) as bin,
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
    select bin, type, runs from moved where type is distinct from previous
     union all
    select bin, previous, -runs from moved where type is distinct from previous and previous is not null
)
select (extract(epoch from bin + $3::text::interval - interval '1 microsecond' - $1::text::timestamptz) * 1000000)::bigint::text as begin,
       type::text as type, sum(runs)::bigint::text as runs
  from change
 group by bin, type;
