-- read_objects(names text) -> many row
-- Which of some names are taken where new tables are made, or by temporary objects, which hide those. The names are one text in the form of an array.
with place as (
    select oid, oid = pg_my_temp_schema() as is_temporary
      from pg_namespace
     where nspname = current_schema()
        or oid = pg_my_temp_schema()
)
select relkind::text as kind, is_temporary, relname::text as name
  from pg_class
  join place on place.oid = relnamespace
 where relname = any ($1::text::name[])
 union all
select 'type', is_temporary, typname::text
  from pg_type
  join place on place.oid = typnamespace
 where typname = any ($1::text::name[])
   and typrelid = 0
 union all
select 'function', is_temporary, proname::text
  from pg_proc
  join place on place.oid = pronamespace
 where proname = any ($1::text::name[])
   -- Ours take nothing, or among other things a table.
   and (pronargs = 0 or 'regclass'::regtype = any (proargtypes))
 order by name;
