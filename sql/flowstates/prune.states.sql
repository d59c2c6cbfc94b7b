-- prune.states(type text, before text, after_timestamp text, after_id text, runs text, states text, flow_run_id text, first text, newest text, types text[], names text[], is_archived text) -> many row
-- Deletes of runs' histories what is not to stay, where the last state is of a type and before a time. The trigger on deletes updates the runs'
-- rows, as whoever changes a history must.
with /* slot: thinned */ chosen as (
    select id, xmin as version, '{}'::tid[] as places, 1 as states from flow_run
), reached as (
    select ''::text as timestamp, ''::text as id, true as is_last
) /* end */, locked as materialized (
    -- A run that was changed since the statement began is not seen whole by it, and one that is locked is being changed: both stay for now.
    select run.id, chosen.places, chosen.states
      from chosen
     cross join lateral (
           select flow_run.id
             from flow_run
            where flow_run.id = chosen.id
              and flow_run.xmin = chosen.version
              for no key update skip locked) as run
), gone as (
    delete from flow_run_state as state
     -- By their places, which this statement has just seen: no index is asked again.
     where state.ctid = any (array (select unnest(places) from locked))
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
