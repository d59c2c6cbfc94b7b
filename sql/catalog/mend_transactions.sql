-- mend_transactions() -> affected
-- After a restore into a cluster that has not come to the stored transactions' numbers yet: gives the states of these one number of this cluster. A
-- feed tells them after all that is there, each run's in order. It is for people to paste; the library prints it and never runs it.
do $$
begin
    -- Who writes waits until this is done; who reads does not.
    lock table flow_run, flow_run_state in share row exclusive mode;
    update flow_run_state set transaction = pg_current_xact_id() where transaction > pg_current_xact_id();
    update flow_run set transaction = pg_current_xact_id() where transaction > pg_current_xact_id();
end
$$;
