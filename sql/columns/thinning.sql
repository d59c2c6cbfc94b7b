-- Of the chosen runs those that nobody else has changed or is changing, locked, and what goes of their histories.
locked as materialized (
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
)
