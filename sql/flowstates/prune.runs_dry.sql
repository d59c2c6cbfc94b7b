-- prune.runs_dry(type text, before text, after_timestamp text, after_id text, runs text, states text, flow_run_id text) -> many row
-- What prune.runs would delete.
with /* slot: whole */ chosen as (
    select id, xmin as version, '{}'::tid[] as places, 1 as states from flow_run
), reached as (
    select ''::text as timestamp, ''::text as id, true as is_last
) /* end */
/* slot: dry */ select count(*) from chosen /* end */;
