-- create_migration_table() -> affected
-- Where it is recorded which migrations were applied, and from what text.
create table flowstates_migration (
    name     text        not null primary key,
    checksum text        not null,
    applied  timestamptz not null default current_timestamp
);
