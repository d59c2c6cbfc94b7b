-- prune.runs(type text, before text, after_timestamp text, after_id text, runs text, states text, flow_run_id text, is_archived text) -> many row
-- Deletes runs whole, those of a type whose last state is before a time. The runs' rows go in the same statement, so the triggers find nothing
-- more to do.
with /* slot: whole */ chosen as (
    select id, xmin as version, '{}'::tid[] as places, 1 as states from flow_run
), reached as (
    select ''::text as timestamp, ''::text as id, true as is_last
) /* end */, locked as materialized (
    -- A run that was changed since the statement began is not seen whole by it, and one that is locked is being changed: both stay for now.
    select run.id, chosen.states
      from chosen
     cross join lateral (
           select flow_run.id
             from flow_run
            where flow_run.id = chosen.id
              and flow_run.xmin = chosen.version
              for update skip locked) as run
), gone as (
    delete from flow_run_state as state
     where state.flow_run_id = any (array (select id from locked))
    returning state.*
), run as (
    delete from flow_run
     where flow_run.id = any (array (select id from locked))
    returning flow_run.id
), /* slot: pruned */ total as (
    select count(*) from gone
), passed as (
    select count(*) from chosen
)
select state.id /* end */
  from total
 cross join passed
  left join reached on true
  left join gone as state on $8::text::boolean
 order by state.flow_run_id, state.timestamp;
