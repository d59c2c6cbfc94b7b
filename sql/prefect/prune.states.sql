-- prune.states(run_types text, before text, after_id text, runs text, states text, flow_run_id text, first text, newest text, types text[], names text[], artifacts text, is_archived text) -> many row
-- Deletes of runs' histories what is not to stay, where the run has ended before a time. The runs' rows stay as they are.
with /* slot: thinned */ chosen as (
    select id, xmin as version, '{}'::tid[] as places, 1 as states from flow_run
), reached as (
    select ''::text as timestamp, ''::text as id, true as is_last
) /* end */, locked as materialized (
    -- A run that was changed since the statement began is not seen whole by it, and one that is locked is being changed: both stay for now.
    select flow_run.id
      from chosen
      join flow_run on flow_run.id = chosen.id and flow_run.xmin = chosen.version
     where flow_run.id = any (array (select id from chosen))
       for no key update of flow_run skip locked
), gone as (
    delete from flow_run_state as state
     -- By their places, which this statement has just seen: no index is asked again.
     where state.ctid = any (array (select unnest(chosen.places) from chosen join locked on locked.id = chosen.id))
    returning state.*
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
