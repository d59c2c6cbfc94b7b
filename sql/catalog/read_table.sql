-- read_table(table text) -> optional row
-- What a name on the search path is and where, whether row level security is on, and its rules for writes; no row if there is none.
select relkind::text as kind, relpersistence = 't' as is_temporary, nspname::text as schema, relrowsecurity as has_row_security,
       (select string_agg(rulename, ', ' order by rulename) from pg_rewrite where ev_class = pg_class.oid and ev_type <> '1') as rules
  from pg_class
  join pg_namespace on pg_namespace.oid = relnamespace
 where pg_class.oid = to_regclass($1::text);
