-- create_flow_run_states.meant(states text, flow_run_ids text[]) -> one row
-- Of the states that were stored, how many are there as they were meant; of their runs, how many have a row that says what their newest state
-- says. The states are a JSON array of arrays of texts: flow_run_id, type, id, timestamp, name, transaction.
select (select count(*)
          from jsonb_array_elements($1::text::jsonb) as given (state)
          join flow_run_state as stored on stored.id = (given.state ->> 2)::uuid
         where stored.flow_run_id = (given.state ->> 0)::uuid
           and stored.type = (given.state ->> 1)::state_type
           and stored.timestamp = (given.state ->> 3)::timestamptz
           and stored.name = given.state ->> 4
           and stored.transaction = (given.state ->> 5)::xid8)::text as states,
       (select count(*)
          from unnest($2::text[]::uuid[]) as run (id)
          join flow_run on flow_run.id = run.id
         cross join lateral (
               select state.id, state.type, state.name, state.timestamp
                 from flow_run_state as state
                where state.flow_run_id = run.id
                order by state.timestamp desc
                limit 1) as newest
         where (flow_run.state_id, flow_run.state_type, flow_run.state_name, flow_run.state_timestamp)
             = (newest.id, newest.type, newest.name, newest.timestamp))::text as runs;
