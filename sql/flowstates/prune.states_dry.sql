-- prune.states_dry(type text, before text, after_timestamp text, after_id text, runs text, states text, flow_run_id text, first text, newest text, types text[], names text[]) -> many row
-- What prune.states would delete.
with /* slot: thinned */ chosen as (
    select id, xmin as version, '{}'::tid[] as places, 1 as states from flow_run
), reached as (
    select ''::text as timestamp, ''::text as id, true as is_last
) /* end */
select (select count(*) from chosen)::text as runs_gone, coalesce((select sum(states) from chosen), 0)::text as states_gone, null::text as bytes_gone,
       '0'::text as runs_passed, reached.timestamp as reached_timestamp, reached.id as reached_id, reached.is_last::text as is_last
  from (values (1)) as answer
  left join reached on true;
