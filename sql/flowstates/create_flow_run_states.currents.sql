-- create_flow_run_states.currents(flow_run_ids text[]) -> values text
-- Lets the rows of some runs point at the newest of their states, and gives the ids of the runs whose rows moved.
update flow_run
   set state_id = newest.id, state_type = newest.type, state_name = newest.name, state_timestamp = newest.timestamp
  from unnest($1::text[]::uuid[]) as run (id)
 cross join lateral (
       select state.id, state.type, state.name, state.timestamp
         from flow_run_state as state
        where state.flow_run_id = run.id
        order by state.timestamp desc
        limit 1) as newest
 where flow_run.id = run.id
   and flow_run.state_timestamp <> newest.timestamp
returning flow_run.id::text;
