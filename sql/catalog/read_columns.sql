-- read_columns(table text) -> many row
-- The columns of a table on the search path; no rows if there is none of that name.
select attname::text as name, format_type(atttypid, atttypmod) as type, attnotnull as not_null, atthasdef or attidentity <> '' as has_default
  from pg_attribute
 where attrelid = to_regclass($1::text)
   and attnum > 0
   and not attisdropped
 order by attnum;
