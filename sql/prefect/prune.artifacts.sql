-- prune.artifacts(run_types text, before text, after_id text, runs text, states text, flow_run_id text, first text, newest text, types text[], names text[], artifacts text, is_archived text) -> many row
-- As prune.states, and the results that the deleted states held go with them, but for one that is the newest of its key or that another state holds.
-- Prefect's own vacuum looks for results of runs that are gone, and these stay.
with /* slot: thinned */ chosen as (
    select id, xmin as version, '{}'::tid[] as places, 1 as states from flow_run
), reached as (
    select ''::text as timestamp, ''::text as id, true as is_last
) /* end */, /* slot: thinning */ locked as (
    select id, places, states from chosen
), gone as (
    delete from flow_run_state where ctid = any (array (select unnest(places) from locked)) returning *
) /* end */, result as (
    delete from artifact
     where artifact.id = any (array (select result_artifact_id from gone where result_artifact_id is not null))
       and not exists (select from artifact_collection as newest where newest.key = artifact.key and newest.latest_id = artifact.id)
       and not exists (select
                         from flow_run_state as state
                        where state.result_artifact_id = artifact.id
                          and state.id not in (select id from gone))
       and not exists (select from task_run_state as state where state.result_artifact_id = artifact.id)
), run as (
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
