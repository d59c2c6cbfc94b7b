-- The states of runs, and a row a run that says which of its states is current. A state is inserted and deleted, never updated; a run's
-- states are ordered by timestamp without ties, and the newest is the current one. Nothing here keeps the name of a schema.

create type state_type as enum (
    'SCHEDULED', 'PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED', 'PAUSED', 'CANCELLING'
);

create table flow_run_state (
    id                 uuid        not null default gen_random_uuid(),
    created            timestamptz not null default current_timestamp,
    updated            timestamptz not null generated always as (created) stored,
    type               state_type  not null,
    timestamp          timestamptz not null default clock_timestamp(),
    name               varchar     not null,
    message            varchar,
    state_details      jsonb       not null default '{}',
    data               jsonb,
    flow_run_id        uuid        not null,
    result_artifact_id uuid,
    -- The transaction that stored it or, if that is later, the one that stored the run's state before it: a run's own order is one of these.
    transaction        xid8        not null default pg_current_xact_id(),

    constraint pk_flow_run_state primary key (id),
    constraint ck_flow_run_state__name check (name <> ''),
    constraint ck_flow_run_state__state_details check (jsonb_typeof(state_details) = 'object'),
    -- Finite, and a day inside what other languages' calendars hold. Writers are let in one day less: the rest is
    -- the room in which a state is moved behind the one that it follows.
    constraint ck_flow_run_state__timestamp check (timestamp >= '0001-01-02 00:00:00+00' and timestamp < '9999-12-31 00:00:00+00')
) with (
    -- The usual 20 percent are twenty million rows of a hundred: that much dead weight after deletes, and as many new rows for which an index-only
    -- scan must look into the table.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

-- A run's history in order. It includes the type, so that occupancy reads this index alone.
create unique index uq_flow_run_state__flow_run_id_timestamp on flow_run_state (flow_run_id, timestamp) include (type);
-- Pages, counts and transitions by time over all runs; the last of these read this index alone.
create index ix_flow_run_state__timestamp_id on flow_run_state (timestamp, id) include (type);
-- The order in which a feed tells states.
create index ix_flow_run_state__transaction_timestamp_id on flow_run_state (transaction, timestamp, id);

-- Which state of a run is current. It has a row as long as the run has a state. No foreign key leads from here to the states or back: a check
-- of each would cost an append a fifth of its time, and the triggers below see to both.
create table flow_run (
    id              uuid        not null,
    state_id        uuid        not null,
    state_type      state_type  not null,
    state_name      varchar     not null,
    state_timestamp timestamptz not null,
    transaction     xid8        not null,

    constraint pk_flow_run primary key (id)
) with (
    -- Each append leaves a dead row here, and none of them goes before a vacuum, as the type is indexed.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

-- The runs in a state, by the time since when; those that moved in a window.
create index ix_flow_run__state_type_state_timestamp_id on flow_run (state_type, state_timestamp, id);

-- Places of states that went with their run, or in a prune, the last one of each such delete, and which transaction it was. A row a delete, as deletes
-- do not wait for each other; those that a later delete goes past are dropped, so most often one is left.
create table flowstates_pruned (
    transaction xid8        not null,
    timestamp   timestamptz not null,
    id          uuid        not null,
    pruned_by   xid8        not null default pg_current_xact_id(),

    constraint pk_flowstates_pruned primary key (transaction, timestamp, id, pruned_by)
);

-- Who does not know of this delete is told of it, and is told no more of those before it that reached less far. So they go, but none that another
-- transaction holds. At an older snapshot such a delete would be undone.
create function keep_last_pruned() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('search_path', quote_ident(tg_table_schema) || ', pg_temp', true);
    if current_setting('transaction_isolation') not in ('repeatable read', 'serializable') then
        delete from flowstates_pruned
         where ctid = any (array (
               select pruned.ctid
                 from flowstates_pruned as pruned
                where exists (
                      select
                        from noted
                       where (pruned.transaction, pruned.timestamp, pruned.id) <= (noted.transaction, noted.timestamp, noted.id)
                         and (pruned.transaction, pruned.timestamp, pruned.id, pruned.pruned_by)
                             <> (noted.transaction, noted.timestamp, noted.id, noted.pruned_by))
                  for update skip locked));
    end if;
    return null;
end
$$;

create trigger tr_flowstates_pruned__insert after insert on flowstates_pruned
    referencing new table as noted for each statement execute function keep_last_pruned();

-- After deletes of states, whoever sent them: their runs' rows let go of what went. No temporary object comes before those that are meant, as a
-- cascade runs this with the rights of the tables' owner. A plan is kept for all sizes of the tables and of what is deleted: without sequential
-- scans, and with `offset 0`, it goes from what went to the runs by their ids.
create function follow_deleted_states() returns trigger language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
    run_id  uuid;
    emptied uuid[] := '{}';
    rows    bigint;
    is_left boolean := false; -- whether a row of these runs is there
    is_gone boolean := false; -- or one is not
begin
    -- The tables are those beside the one that was deleted from. It holds until the function ends.
    perform set_config('search_path', quote_ident(tg_table_schema) || ', pg_temp', true);
    if tg_op = 'TRUNCATE' then
        -- It takes what the transaction's snapshot does not have, too. Where that is kept, a delete would leave the rows of newer runs.
        if current_setting('transaction_isolation') not in ('repeatable read', 'serializable') then
            delete from flow_run;
        elsif pg_relation_size(to_regclass('flow_run')) > 0 then
            truncate flow_run;
        end if;
        return null;
    end if;
    -- For its lock on the table: whoever mends flow_run waits for this delete, or this for the mending, also where a run has no row yet.
    update flow_run set state_id = state_id where false;
    -- Whoever changes a run's history updates the run's row, also where that stays as it is: a lock alone is not seen by a transaction whose
    -- snapshot is older. In the order of ids, so that two of these do not lock each other out.
    for run_id in
        select run.id
          from (select distinct flow_run_id from gone) as asked
          left join lateral (select id from flow_run where id = asked.flow_run_id offset 0) as run on true
         order by run.id
    loop
        if run_id is null then
            is_gone := true; -- it went in the same statement
            continue;
        end if;
        is_left := true;
        update flow_run set state_id = flow_run.state_id where id = run_id;
    end loop;
    if is_left then
        -- Queries of their own, as the first has waited: these see what it waited for.
        for run_id in
            select run.id
              from gone
             cross join lateral (select id from flow_run where id = gone.flow_run_id and state_id = gone.id offset 0) as run
        loop
            update flow_run
               set state_id = newest.id, state_type = newest.type, state_name = newest.name, state_timestamp = newest.timestamp
              from (select id, type, name, timestamp
                      from flow_run_state
                     where flow_run_id = run_id
                     order by timestamp desc
                     limit 1) as newest
             where flow_run.id = run_id;
            continue when found;
            if exists (select from flow_run_state where flow_run_id = run_id) then
                raise exception 'flow_run goes on to name a deleted state of run %', run_id
                    using hint = 'a trigger on flow_run or row level security keeps its row back';
            end if;
            emptied := emptied || run_id;
        end loop;
    end if;
    if cardinality(emptied) > 0 then
        delete from flow_run where id = any (emptied);
        get diagnostics rows = row_count;
        if rows < cardinality(emptied) then
            raise exception 'flow_run keeps the rows of % runs that have no state left', cardinality(emptied) - rows
                using hint = 'a trigger on flow_run or row level security keeps them back';
        end if;
    end if;
    if is_gone or cardinality(emptied) > 0 then
        -- For a feed that has not told them. What the same transaction has stored nobody was to be told.
        insert into flowstates_pruned (transaction, timestamp, id)
        select last.transaction, last.timestamp, last.id
          from (select gone.transaction, gone.timestamp, gone.id
                  from gone
                 where gone.transaction <> pg_current_xact_id()
                   and (not is_left
                        or gone.flow_run_id not in (
                           select flow_run.id from flow_run where flow_run.id = any (array (select distinct flow_run_id from gone))))
                 order by gone.transaction desc, gone.timestamp desc, gone.id desc
                 limit 1) as last
         -- A look at it there would let others' deletes and this undo each other.
         where current_setting('transaction_isolation') = 'serializable'
            or not exists (
               select
                 from flowstates_pruned as own
                where own.pruned_by = pg_current_xact_id()
                  and (own.transaction, own.timestamp, own.id) >= (last.transaction, last.timestamp, last.id))
            on conflict do nothing;
    end if;
    return null;
end
$$;

create trigger tr_flow_run_state__delete after delete on flow_run_state
    referencing old table as gone for each statement execute function follow_deleted_states();
create trigger tr_flow_run_state__truncate after truncate on flow_run_state
    for each statement execute function follow_deleted_states();

create function note_truncated_states() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('search_path', quote_ident(tg_table_schema) || ', pg_temp', true);
    -- A snapshot that is kept may not have the last of them.
    insert into flowstates_pruned (transaction, timestamp, id)
    select pg_current_xact_id(), 'infinity', 'ffffffff-ffff-ffff-ffff-ffffffffffff'
     where current_setting('transaction_isolation') in ('repeatable read', 'serializable')
       and pg_relation_size(to_regclass('flow_run_state')) > 0
     union all
    (select transaction, timestamp, id
       from flow_run_state
      where transaction <> pg_current_xact_id()
      order by transaction desc, timestamp desc, id desc
      limit 1)
        on conflict do nothing;
    return null;
end
$$;

create trigger tr_flow_run_state__truncated before truncate on flow_run_state
    for each statement execute function note_truncated_states();

-- After deletes of runs' rows: a state without its run's row would be followed by nothing, so it goes too. A row that the same statement has put
-- back keeps its states.
create function follow_deleted_runs() returns trigger language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
    perform set_config('search_path', quote_ident(tg_table_schema) || ', pg_temp', true);
    if tg_op = 'TRUNCATE' then
        -- A snapshot that is kept may not have them; the size of the table tells.
        if exists (select from flow_run_state)
           or (current_setting('transaction_isolation') in ('repeatable read', 'serializable') and pg_relation_size(to_regclass('flow_run_state')) > 0)
        then
            raise exception 'flow_run alone cannot be truncated' using hint = 'truncate flow_run_state: the rows of flow_run go with it';
        end if;
        return null;
    end if;
    if exists (select from gone cross join lateral (select from flow_run_state where flow_run_id = gone.id limit 1) as state) then
        delete from flow_run_state
         where flow_run_id = any (array (
               select gone.id
                 from gone
                 left join lateral (select id from flow_run where id = gone.id offset 0) as run on true
                where run.id is null));
    end if;
    return null;
end
$$;

create trigger tr_flow_run__delete after delete on flow_run
    referencing old table as gone for each statement execute function follow_deleted_runs();
create trigger tr_flow_run__truncate after truncate on flow_run
    for each statement execute function follow_deleted_runs();
