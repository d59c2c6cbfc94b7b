-- read_schema() -> one row
-- The schema in which new tables are made, null if the search path names none, and which tables are there already.
select current_schema()::text as schema,
       to_regclass(quote_ident(current_schema()) || '.flowstates_migration') is not null as has_migrations,
       to_regclass(quote_ident(current_schema()) || '.flow_run_state') is not null as has_states,
       to_regclass(quote_ident(current_schema()) || '.alembic_version') is not null as has_alembic;
