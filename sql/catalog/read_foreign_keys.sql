-- read_foreign_keys(table text) -> many row
-- The columns of each foreign key of a table, what it references, what a delete there does here, and whether it does so.
select (select string_agg(attname, ', ' order by position)
          from unnest(conkey) with ordinality as key (number, position)
          join pg_attribute on attrelid = conrelid and attnum = number) as columns,
       case when pg_table_is_visible(confrelid) then '' else nspname || '.' end || relname || ' ('
       || (select string_agg(attname, ', ' order by position)
             from unnest(confkey) with ordinality as key (number, position)
             join pg_attribute on attrelid = confrelid and attnum = number)
       || ') on delete '
       || case confdeltype when 'c' then 'cascade' when 'n' then 'set null' when 'd' then 'set default' when 'r' then 'restrict' else 'no action' end
       as reference,
       exists (select from pg_trigger where tgconstraint = pg_constraint.oid and tgrelid = confrelid and tgtype & 8 <> 0 and tgenabled in ('O', 'A'))
       as is_on
  from pg_constraint
  join pg_class on pg_class.oid = confrelid
  join pg_namespace on pg_namespace.oid = relnamespace
 where conrelid = to_regclass($1::text)
   and contype = 'f';
