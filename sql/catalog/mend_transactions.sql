-- mend_transactions() -> affected
-- After a restore into a cluster that has not come to the stored transactions' numbers yet: gives the states of these one number of this cluster. A
-- feed tells them after all that is there, each run's in order. Consumers that had come to one of them are told all of these, some for the second
-- time. It is for people to paste; the library prints it and never runs it.
do $$
begin
    -- Who writes waits until this is done; who reads does not.
    lock table flow_run, flow_run_state, flowstates_consumer, flowstates_pruned in share row exclusive mode;
    update flowstates_consumer as consumer
       set transaction = pg_current_xact_id(), timestamp = '-infinity', id = '00000000-0000-0000-0000-000000000000',
           -- It misses what it had not come to.
           missing = case when exists (
                               select
                                 from flowstates_pruned as pruned
                                where (pruned.transaction, pruned.timestamp, pruned.id) > (consumer.transaction, consumer.timestamp, consumer.id)
                                  and pruned.transaction > consumer.missing)
                          then '0' else pg_current_xact_id() end
     where transaction > pg_current_xact_id();
    update flowstates_pruned set transaction = pg_current_xact_id() where transaction > pg_current_xact_id();
    update flow_run_state set transaction = pg_current_xact_id() where transaction > pg_current_xact_id();
    update flow_run set transaction = pg_current_xact_id() where transaction > pg_current_xact_id();
end
$$;
