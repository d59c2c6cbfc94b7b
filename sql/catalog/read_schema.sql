-- read_schema() -> one row
-- The schema in which new tables are made, null if the search path names none; whether migrations are recorded there, and whether its tables are
-- Prefect's: they have what the layout prefect asks, and not what only our own have. And whether the database has Citus.
with columns as (
    select relname || '.' || attname as name
      from pg_namespace
      join pg_class on relnamespace = pg_namespace.oid and relkind in ('r', 'p')
      join pg_attribute on attrelid = pg_class.oid and not attisdropped
     where nspname = current_schema()
)
select current_schema()::text as schema,
       exists (select from columns where name = 'flowstates_migration.checksum') as has_migrations,
       (select count(*) from columns
         where name in ('flow_run_state.flow_run_id', 'flow_run_state.result_artifact_id', 'flow_run.state_id', 'flow_run.state_timestamp',
                        'artifact.data')) = 5
       and not exists (select from columns where name = 'flow_run_state.transaction') as is_prefects,
       exists (select from pg_catalog.pg_extension where extname = 'citus') as has_citus;
