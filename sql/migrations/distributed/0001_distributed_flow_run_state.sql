-- The states of runs and a row a run, on Citus: both tables are distributed by the run, so that all of a run is on one server. A run's history is
-- written by two functions that run where the run is, as what an append does is refused as one statement there. Nothing here keeps the name of
-- a schema. No feed: transactions of several servers have no numbers in common.

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

    -- A key over all servers is not to be had, so an id is unique in its run.
    constraint pk_flow_run_state primary key (flow_run_id, id),
    constraint ck_flow_run_state__name check (name <> ''),
    constraint ck_flow_run_state__state_details check (jsonb_typeof(state_details) = 'object'),
    constraint ck_flow_run_state__timestamp check (timestamp >= '0001-01-02 00:00:00+00' and timestamp < '9999-12-31 00:00:00+00')
) with (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

-- A run's history in order. It includes the type, so that occupancy reads this index alone.
create unique index uq_flow_run_state__flow_run_id_timestamp on flow_run_state (flow_run_id, timestamp) include (type);
-- A state by its id alone.
create index ix_flow_run_state__id on flow_run_state (id);
-- Pages, counts and transitions by time over all runs; the last of these read this index alone.
create index ix_flow_run_state__timestamp_id on flow_run_state (timestamp, id) include (type);

-- Which state of a run is current. It has a row as long as the run has a state.
create table flow_run (
    id              uuid        not null,
    state_id        uuid        not null,
    state_type      state_type  not null,
    state_name      varchar     not null,
    state_timestamp timestamptz not null,

    constraint pk_flow_run primary key (id)
) with (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

-- The runs in a state, by the time since when; those that moved in a window.
create index ix_flow_run__state_type_state_timestamp_id on flow_run (state_type, state_timestamp, id);

select create_distributed_table('flow_run_state', 'flow_run_id');

select create_distributed_table('flow_run', 'id', colocate_with => 'flow_run_state');

-- Appends a state to a run's history; no row if the run's current state is not the expected one, if the id is taken in the run, or if another
-- writer made the run meanwhile. The empty text among the expected types stands for a run without history.
-- `beside` is the table flow_run, by which the function finds those beside it: on a worker the caller's search path does not hold. Type and time come
-- as texts, as a worker is not sent a cast of a text whose function is not immutable.
create function append_flow_run_state(
    run_id uuid, new_type text, new_id uuid, new_timestamp text, new_name text, new_message text, new_details jsonb, new_data jsonb,
    new_artifact_id uuid, expected_id uuid, expected_types text[], beside regclass
) returns setof flow_run_state language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    run   record;
    begun timestamptz;
begin
    perform set_config('search_path', (select quote_ident(nspname) from pg_class join pg_namespace on pg_namespace.oid = relnamespace
                                        where pg_class.oid = beside) || ', pg_temp', true);
    -- Whoever comes second waits for the row here, and is judged by what it says then.
    select state_id, state_type, state_timestamp into run from flow_run where id = run_id for update;
    if found then
        if run.state_id <> expected_id or run.state_type::text <> all (expected_types)
           or exists (select from flow_run_state where flow_run_id = run_id and id = new_id)
        then
            return;
        end if;
        begun := greatest(coalesce(new_timestamp::timestamptz, clock_timestamp()), run.state_timestamp + interval '1 microsecond');
        update flow_run set state_id = new_id, state_type = new_type::state_type, state_name = new_name, state_timestamp = begun where id = run_id;
    else
        if expected_id is not null or '' <> all (expected_types) then
            return;
        end if;
        begun := coalesce(new_timestamp::timestamptz, clock_timestamp());
        insert into flow_run (id, state_id, state_type, state_name, state_timestamp) values (run_id, new_id, new_type::state_type, new_name, begun)
            on conflict do nothing;
    end if;
    if not found then
        return;
    end if;
    return query
    insert into flow_run_state (flow_run_id, type, id, timestamp, name, message, state_details, data, result_artifact_id)
    values (run_id, new_type::state_type, new_id, begun, new_name, new_message, new_details, new_data, new_artifact_id)
    returning *;
    if not found then
        raise exception 'flow_run_state keeps the new state of run % back', run_id using hint = 'a trigger on flow_run_state does so';
    end if;
end
$$;

-- Deletes states of a run, for null all of them, and gives the ids that went. The run's row then points at the newest that is left, or goes.
create function delete_flow_run_states(run_id uuid, state_ids uuid[], beside regclass)
returns setof uuid language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    current_id uuid;
    newest     record;
begin
    perform set_config('search_path', (select quote_ident(nspname) from pg_class join pg_namespace on pg_namespace.oid = relnamespace
                                        where pg_class.oid = beside) || ', pg_temp', true);
    -- Whoever changes a run's history updates the run's row, also where that stays as it is: a lock alone is not seen by a transaction whose
    -- snapshot is older.
    update flow_run set state_id = state_id where id = run_id returning state_id into current_id;
    if not found then
        return;
    end if;
    return query
    delete from flow_run_state where flow_run_id = run_id and (state_ids is null or id = any (state_ids)) returning id;
    select id, type, name, timestamp into newest from flow_run_state where flow_run_id = run_id order by timestamp desc limit 1;
    if not found then
        delete from flow_run where id = run_id;
    elsif newest.id <> current_id then
        update flow_run set state_id = newest.id, state_type = newest.type, state_name = newest.name, state_timestamp = newest.timestamp
         where id = run_id;
    end if;
end
$$;

-- Deletes a run whose current state is of a type and from before a time, and gives its states; no row if it is not, or if the run is locked: then it
-- is being changed.
create function prune_flow_run(run_id uuid, ended_type text, before text, beside regclass)
returns setof flow_run_state language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('search_path', (select quote_ident(nspname) from pg_class join pg_namespace on pg_namespace.oid = relnamespace
                                        where pg_class.oid = beside) || ', pg_temp', true);
    perform from flow_run
      where id = run_id and state_type = ended_type::state_type and state_timestamp < before::timestamptz
        for update skip locked;
    if not found then
        return;
    end if;
    return query delete from flow_run_state where flow_run_id = run_id returning *;
    delete from flow_run where id = run_id;
end
$$;

select create_distributed_function(
    'append_flow_run_state(uuid,text,uuid,text,text,text,jsonb,jsonb,uuid,uuid,text[],regclass)', 'run_id',
    colocate_with => 'flow_run', force_delegation => true);

select create_distributed_function(
    'delete_flow_run_states(uuid,uuid[],regclass)', 'run_id', colocate_with => 'flow_run', force_delegation => true);

select create_distributed_function(
    'prune_flow_run(uuid,text,text,regclass)', 'run_id', colocate_with => 'flow_run', force_delegation => true);
