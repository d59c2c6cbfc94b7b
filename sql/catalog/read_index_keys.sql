-- read_index_keys(table text) -> many row
-- The key columns of each index of a table, by the index's name.
select relname::text as name, string_agg(attname, ', ' order by attnum) as columns
  from pg_index
  join pg_class on pg_class.oid = indexrelid
  join pg_attribute on attrelid = indexrelid and attnum <= indnkeyatts
 where indrelid = to_regclass($1::text)
 group by indexrelid, relname;
