-- prune.states(run_types text, before text, after_id text, runs text, states text, flow_run_id text, first text, newest text, types text[], names text[], artifacts text, is_archived text) -> many row
-- Deletes of runs' histories what is not to stay, where the run has ended before a time. The runs' rows stay as they are.
with /* slot: thinned */ chosen as (
    select id, xmin as version, '{}'::tid[] as places, 1 as states from flow_run
), reached as (
    select ''::text as timestamp, ''::text as id, true as is_last
) /* end */, /* slot: thinning */ locked as (
    select id, places, states from chosen
), gone as (
    delete from flow_run_state where ctid = any (array (select unnest(places) from locked)) returning *
) /* end */, run as (
    select id from locked
), /* slot: pruned */ total as (
    select count(*) from gone
), passed as (
    select count(*) from chosen
)
select state.id /* end */
  from total
 cross join passed
  left join reached on true
  left join gone as state on $12::text::boolean
 order by state.flow_run_id, state.timestamp;
