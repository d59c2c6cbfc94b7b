-- read_table(table text) -> optional row
-- What a name on the search path is and where, its schema's name in quotes where it needs them, whether row level security is on and whether that
-- can hide rows from this role, whether a crash empties it, which tables it shares rows with, and its rules for writes; no row if there is none.
select relkind::text as kind, relpersistence = 't' as is_temporary, nspname::text as schema, quote_ident(nspname) as quoted_schema,
       relrowsecurity as has_row_security, row_security_active(pg_class.oid) as hides_rows, relpersistence = 'u' as is_unlogged,
       (select string_agg(word || relative.relname, ', ' order by word, relative.relname)
          from (select 'child of ' as word, inhparent as table from pg_inherits where inhrelid = pg_class.oid
                 union all
                select 'parent of ', inhrelid from pg_inherits where inhparent = pg_class.oid
                 union all
                select 'partitions of ', pg_class.oid where relkind = 'p') as tie
          join pg_class as relative on relative.oid = tie.table) as ties,
       (select string_agg(rulename, ', ' order by rulename) from pg_rewrite where ev_class = pg_class.oid and ev_type <> '1') as rules
  from pg_class
  join pg_namespace on pg_namespace.oid = relnamespace
 where pg_class.oid = to_regclass($1::text);
