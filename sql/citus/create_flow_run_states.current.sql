-- create_flow_run_states.current(flow_run_id text) -> affected
-- Lets a run's row point at the newest of its states.
update flow_run
   set state_id = newest.id, state_type = newest.type, state_name = newest.name, state_timestamp = newest.timestamp
  from (select flow_run_id, id, type, name, timestamp
          from flow_run_state
         where flow_run_id = $1::text::uuid
         order by timestamp desc
         limit 1) as newest
 where flow_run.id = $1::text::uuid
   and newest.flow_run_id = flow_run.id;
