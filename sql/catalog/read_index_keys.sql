-- read_index_keys(table text) -> many row
-- The key columns of each index of a table that has an order, and the columns that it holds besides; whether it serves every row.
select relname::text as name, indisvalid and indpred is null as is_whole,
       string_agg(attname, ', ' order by attnum) filter (where attnum <= indnkeyatts) as columns,
       coalesce(string_agg(attname, ', ' order by attnum) filter (where attnum > indnkeyatts), '') as included
  from pg_index
  join pg_class on pg_class.oid = indexrelid
  join pg_am on pg_am.oid = relam and amname = 'btree'
  join pg_attribute on attrelid = indexrelid
 where indrelid = to_regclass($1::text)
 group by indexrelid, relname, indisvalid, indpred is null;
