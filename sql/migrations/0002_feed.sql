-- What a feed keeps: how far its named consumers have come, and up to where states have gone that it may not have told.

create table flowstates_consumer (
    name        text        not null,
    -- The place of the last state that was told, in the order of a feed.
    transaction xid8        not null,
    timestamp   timestamptz not null,
    id          uuid        not null,
    -- Up to this transaction it is known to whom this is that states are missing.
    missing     xid8        not null default '0',
    updated     timestamptz not null default current_timestamp,

    constraint pk_flowstates_consumer primary key (name),
    constraint ck_flowstates_consumer__name check (name <> '')
) with (
    fillfactor = 50 -- each batch updates a row in its page
);

-- Places of states that went with their run, or in a prune: the last one counts. A row a delete, as deletes do not wait for each other; none where
-- one is known that lies behind.
create table flowstates_pruned (
    transaction xid8        not null,
    timestamp   timestamptz not null,
    id          uuid        not null,

    constraint pk_flowstates_pruned primary key (transaction, timestamp, id)
);

-- After deletes of states, and after tr_flow_run_state__delete, which comes first by its name: a run that has no row any more went whole. What the
-- same transaction has stored nobody was to be told. A plan is kept for all sizes of what is deleted: without sequential scans it looks up runs by id.
create function note_pruned_states() returns trigger language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
    perform set_config('search_path', quote_ident(tg_table_schema) || ', pg_temp', true);
    if tg_op = 'TRUNCATE' then
        -- A snapshot that is kept may not have the last of them.
        insert into flowstates_pruned (transaction, timestamp, id)
        select pg_current_xact_id(), 'infinity', 'ffffffff-ffff-ffff-ffff-ffffffffffff'
         where current_setting('transaction_isolation') in ('repeatable read', 'serializable')
         union all
        (select transaction, timestamp, id
           from flow_run_state
          order by transaction desc, timestamp desc, id desc
          limit 1)
            on conflict do nothing;
        return null;
    end if;
    insert into flowstates_pruned (transaction, timestamp, id)
    select gone.transaction, gone.timestamp, gone.id
      from gone
     where gone.flow_run_id not in (
           select flow_run.id from flow_run where flow_run.id = any (array (select distinct flow_run_id from gone)))
       and gone.transaction <> pg_current_xact_id()
       and (gone.transaction, gone.timestamp, gone.id) > all (select transaction, timestamp, id from flowstates_pruned)
     order by gone.transaction desc, gone.timestamp desc, gone.id desc
     limit 1
        on conflict do nothing;
    return null;
end
$$;

create trigger tr_flow_run_state__pruned after delete on flow_run_state
    referencing old table as gone for each statement execute function note_pruned_states();
create trigger tr_flow_run_state__truncated before truncate on flow_run_state
    for each statement execute function note_pruned_states();

-- The last place counts, so those before it go, but none that another transaction holds. At an older snapshot such a delete would be undone.
create function keep_last_pruned() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('search_path', quote_ident(tg_table_schema) || ', pg_temp', true);
    if current_setting('transaction_isolation') not in ('repeatable read', 'serializable') then
        delete from flowstates_pruned
         where ctid = any (array (
               select ctid
                 from flowstates_pruned as pruned
                where (transaction, timestamp, id)
                      < (select transaction, timestamp, id from flowstates_pruned order by transaction desc, timestamp desc, id desc limit 1)
                  for update skip locked));
    end if;
    return null;
end
$$;

create trigger tr_flowstates_pruned__insert after insert on flowstates_pruned
    for each statement execute function keep_last_pruned();
