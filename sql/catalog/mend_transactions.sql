-- mend_transactions() -> affected
-- After a restore into a cluster that has not come to the stored transactions' numbers yet: gives the states of these one number of this cluster. A
-- feed tells them after all that is there, each run's in order. Consumers that had come to one of them are told all of these, some for the second
-- time, and what was written since the restore. It is for people to paste; the library prints it and never runs it.
do $$
declare
    newest   xid8 := pg_current_xact_id();
    restored xid8;
begin
    -- Who writes waits until this is done; who reads does not.
    lock table flow_run, flow_run_state, flowstates_consumer, flowstates_pruned in share row exclusive mode;
    -- The number of this cluster at which the states came. What was written here since then may be of runs that have none of the dump's numbers.
    select greatest(newest::text::bigint - max(age(xmin)::bigint - age(newest::xid)), 0)::text::xid8
      into restored
      from flow_run_state
     where transaction > newest;
    update flowstates_consumer as consumer
       set transaction = coalesce(restored, newest), timestamp = '-infinity', id = '00000000-0000-0000-0000-000000000000',
           -- It misses what it had not come to, and what was written here and is gone.
           missing = case when exists (
                               select
                                 from flowstates_pruned as pruned
                                where ((pruned.transaction, pruned.timestamp, pruned.id) > (consumer.transaction, consumer.timestamp, consumer.id)
                                       and pruned.transaction > consumer.missing)
                                   or (pruned.transaction >= restored and pruned.transaction <= newest))
                          then '0' else newest end
     where transaction > newest;
    update flowstates_pruned set transaction = newest where transaction > newest;
    update flow_run_state set transaction = newest where transaction > newest;
    update flow_run set transaction = newest where transaction > newest;
end
$$;
