-- mend_transactions() -> affected
-- After a restore into a cluster that has not come to the stored transactions' numbers yet: gives the states of these one number of this cluster. A
-- feed tells them after all that is there, each run's in order. Consumers that had come further than the cluster at the restore are told from there on:
-- all of these, some for the second time, and what was written since. It is for people to paste; the library prints it and never runs it.
do $$
declare
    newest xid8 := pg_current_xact_id();
begin
    -- Who writes waits until this is done; who reads does not.
    lock table flow_run, flow_run_state, flowstates_consumer, flowstates_pruned in share row exclusive mode;
    with restored as (
        -- The number of this cluster at which a consumer came, which is its row's: none that it has come to by itself is greater.
        select name, (newest::text::bigint - (age(xmin)::bigint - age(newest::xid)))::text::xid8 as at
          from flowstates_consumer
         where age(xmin) <= 2147483646 -- the age of one that is frozen, by an older server
    )
    update flowstates_consumer as consumer
       set transaction = least(consumer.transaction, restored.at),
           timestamp = case when consumer.transaction > restored.at then '-infinity' else consumer.timestamp end,
           id = case when consumer.transaction > restored.at then '00000000-0000-0000-0000-000000000000' else consumer.id end,
           -- It is told of what it did not know, and of what was written here and is gone: the first of these has seen nothing.
           known = case when exists (
                             select
                               from flowstates_pruned as pruned
                              where ((pruned.transaction, pruned.timestamp, pruned.id) > (consumer.transaction, consumer.timestamp, consumer.id)
                                     and not pg_visible_in_snapshot(pruned.pruned_by, consumer.known::pg_snapshot))
                                 or (pruned.pruned_by >= restored.at and pruned.pruned_by <= newest))
                        then '1:1:' else pg_current_snapshot()::text end
      from restored
     where restored.name = consumer.name
       and (consumer.transaction > restored.at or pg_snapshot_xmax(consumer.known::pg_snapshot) > newest);
    -- What was deleted elsewhere all that come have seen, as the least number that transactions have; the last of them is enough.
    with gone as (
        delete from flowstates_pruned where transaction > newest or pruned_by > newest returning *
    )
    insert into flowstates_pruned (transaction, timestamp, id, pruned_by)
    select least(transaction, newest), timestamp, id, '3'
      from gone
     order by least(transaction, newest) desc, timestamp desc, id desc
     limit 1
        on conflict do nothing;
    update flow_run_state set transaction = newest where transaction > newest;
    update flow_run set transaction = newest where transaction > newest;
end
$$;
