-- read_columns(table text) -> many row
-- The columns of a table on the search path, and what fills one that an insert leaves out. Types that the search path finds have no schema, and
-- no quotes, which a setting could add.
select attname::text as name, attnotnull as not_null,
       case when typname ~ '^[a-z][a-z0-9_]*$' then replace(format_type(atttypid, atttypmod), '"', '')
            else format_type(atttypid, atttypmod) end as type,
       case when attidentity <> '' then 'generated as identity'
            when attgenerated <> '' then 'generated always as (' || value || case attgenerated when 's' then ') stored' else ') virtual' end
            else 'default ' || value end as filler
  from pg_attribute
  join pg_type on pg_type.oid = atttypid
  left join lateral (
       select replace(replace(pg_get_expr(adbin, adrelid), '"', ''), 'pg_catalog.', '') as value
         from pg_attrdef
        where adrelid = attrelid
          and adnum = attnum) as filled on true
 where attrelid = to_regclass($1::text)
   and attnum > 0
   and not attisdropped
 order by attnum;
