-- create_flow_run_states.lock(flow_run_id text) -> affected
-- Locks a run's row until the transaction ends, by an update, which a transaction with an older snapshot sees. A new run gets a row at a time that
-- no state can have, until create_flow_run_states.current; any id can be a state's.
insert into flow_run (id, state_id, state_type, state_name, state_timestamp)
values ($1::text::uuid, '00000000-0000-0000-0000-000000000000', 'SCHEDULED', '', '-infinity')
    on conflict (id) do update set state_id = flow_run.state_id;
