-- read_columns(table text) -> many row
-- The columns of a table on the search path. Types that the search path finds have no schema, and no quotes, which a setting could add.
select attname::text as name, attnotnull as not_null, atthasdef or attidentity <> '' as has_default,
       case when typname ~ '^[a-z][a-z0-9_]*$' then replace(format_type(atttypid, atttypmod), '"', '')
            else format_type(atttypid, atttypmod) end as type
  from pg_attribute
  join pg_type on pg_type.oid = atttypid
 where attrelid = to_regclass($1::text)
   and attnum > 0
   and not attisdropped
 order by attnum;
