-- read_autovacuum() -> many row
-- Statements by which autovacuum comes to the tables after 2 percent of their rows, as the migrations have it, for those where nobody has said when.
select format('alter table %I.%I set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02);', nspname, relname) as statement
  from pg_class
  join pg_namespace on pg_namespace.oid = relnamespace
 where pg_class.oid in (to_regclass('flow_run_state'), to_regclass('flow_run'))
   and not coalesce(reloptions::text like '%autovacuum_vacuum_scale_factor=%', false)
 order by relname desc;
