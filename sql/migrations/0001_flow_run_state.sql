-- The states of runs. A state is inserted and deleted, never updated; a run's states are ordered by timestamp without ties.

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
    -- Which append to its run this was: a number is given once, so two writers cannot both follow the same state.
    sequence           bigint      not null,

    constraint pk_flow_run_state primary key (id),
    constraint ck_flow_run_state__name check (name <> ''),
    constraint ck_flow_run_state__state_details check (jsonb_typeof(state_details) = 'object'),
    -- Finite, and a day inside what other languages' calendars hold. Writers are let in one day less: the rest is
    -- the room in which a state is moved behind the one that it follows.
    constraint ck_flow_run_state__timestamp check (timestamp >= '0001-01-02 00:00:00+00' and timestamp < '9999-12-31 00:00:00+00')
);

-- A run's history in order. It includes the type, so that occupancy reads this index alone.
create unique index uq_flow_run_state__flow_run_id_timestamp on flow_run_state (flow_run_id, timestamp) include (type);
create unique index uq_flow_run_state__flow_run_id_sequence on flow_run_state (flow_run_id, sequence);
-- Pages and counts by time over all runs.
create index ix_flow_run_state__timestamp_id on flow_run_state (timestamp, id);

-- The unique numbers alone do not keep a history from forking, since a delete frees a number: a writer that waited for a transaction
-- which appended two states and deleted the first of them would be given the number of the first, by a snapshot in which neither is.
-- This looks again when the rows are in, with a snapshot that is newer than all waiting. At REPEATABLE READ a transaction has one snapshot,
-- so there it sees nothing new.
create function refuse_fork() returns trigger language plpgsql set search_path from current as $$
begin
    if exists (
        select
          from (select flow_run_id, max(sequence) as sequence from appended group by flow_run_id) as last
         where last.sequence < (
               select max(flow_run_state.sequence)
                 from flow_run_state
                where flow_run_state.flow_run_id = last.flow_run_id)
    ) then
        raise exception 'another transaction has appended to the run meanwhile' using errcode = 'serialization_failure';
    end if;
    return null;
end
$$;

create trigger tr_flow_run_state__refuse_fork after insert on flow_run_state
    referencing new table as appended for each statement execute function refuse_fork();
