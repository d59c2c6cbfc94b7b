-- The tables of Prefect 3.8 as far as states are concerned, for a server on which Prefect itself cannot run.
create table alembic_version (version_num varchar(32) not null primary key);
create type state_type as enum (
    'SCHEDULED', 'PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED', 'PAUSED', 'CANCELLING'
);
create table artifact (id uuid not null default gen_random_uuid() primary key, key varchar, data json);
create table artifact_collection (id uuid not null default gen_random_uuid() primary key, key varchar not null unique, latest_id uuid not null);
create index ix_artifact_collection__key_latest_id on artifact_collection (key, latest_id);
create table flow_run (
    id uuid not null default gen_random_uuid() primary key,
    state_id uuid,
    state_type state_type,
    state_name varchar,
    state_timestamp timestamptz,
    start_time timestamptz,
    expected_start_time timestamptz,
    end_time timestamptz
);
create table flow_run_state (
    id uuid not null default gen_random_uuid() primary key,
    created timestamptz not null default current_timestamp,
    updated timestamptz not null default current_timestamp,
    type state_type not null,
    timestamp timestamptz not null default current_timestamp,
    name varchar not null,
    message varchar,
    state_details jsonb not null default '{}',
    data jsonb,
    flow_run_id uuid not null references flow_run (id) on delete cascade,
    result_artifact_id uuid references artifact (id) on delete set null
);
create table task_run_state (
    id uuid not null default gen_random_uuid() primary key,
    result_artifact_id uuid references artifact (id) on delete set null
);
create index ix_task_run_state__result_artifact_id on task_run_state (result_artifact_id);
alter table flow_run add foreign key (state_id) references flow_run_state (id) on delete set null;
create unique index uq_flow_run_state__flow_run_id_timestamp_desc on flow_run_state (flow_run_id, timestamp desc);
create index ix_flow_run_state__name on flow_run_state (name);
create index ix_flow_run_state__type on flow_run_state (type);
create index ix_flow_run_state__updated on flow_run_state (updated);
create index ix_flow_run_state__result_artifact_id on flow_run_state (result_artifact_id);
create index ix_flow_run__state_id on flow_run (state_id);
create index ix_flow_run__state_name on flow_run (state_name);
create index ix_flow_run__state_type on flow_run (state_type);
create index ix_flow_run__state_timestamp on flow_run (state_timestamp);
create index ix_flow_run__end_time_desc on flow_run (end_time desc);
create index ix_flow_run__state_type_start_time on flow_run (state_type, coalesce(start_time, expected_start_time));
