-- mend_flow_runs() -> affected
-- Gives each run the row in flow_run that its states say. It is for people to paste; the library prints it and never runs it.
do $$
begin
    -- Who writes waits until this is done; who reads does not. It comes first, as the lock is worth something only if what is read is newer.
    lock table flow_run in share row exclusive mode;
    if row_security_active('flow_run') or row_security_active('flow_run_state') then
        raise exception 'row level security may hide rows of flow_run or flow_run_state' using hint = 'run this as a role that it lets by';
    end if;
    -- A run without states has no row. What references such a row goes with it, or forbids all of this.
    delete from flow_run where not exists (select from flow_run_state where flow_run_state.flow_run_id = flow_run.id);
    insert into flow_run (id, state_id, state_type, state_name, state_timestamp, transaction)
    select newest.flow_run_id, newest.id, newest.type, newest.name, newest.timestamp,
           -- The offset keeps the index on transactions out of it, which would look through all runs.
           (select transaction
              from (select transaction from flow_run_state where flow_run_id = newest.flow_run_id offset 0) as state
             order by transaction desc
             limit 1)
      from (select distinct on (flow_run_id) flow_run_id, id, type, name, timestamp, transaction
              from flow_run_state
             order by flow_run_id desc, timestamp desc) as newest
      left join flow_run on flow_run.id = newest.flow_run_id
     where (flow_run.state_id, flow_run.state_type, flow_run.state_name, flow_run.state_timestamp)
           is distinct from (newest.id, newest.type, newest.name, newest.timestamp)
        or flow_run.transaction < newest.transaction
        on conflict (id) do update
       set state_id = excluded.state_id, state_type = excluded.state_type, state_name = excluded.state_name,
           state_timestamp = excluded.state_timestamp, transaction = greatest(flow_run.transaction, excluded.transaction);
end
$$;
