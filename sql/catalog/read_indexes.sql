-- read_indexes(table text) -> many row
-- The key columns of each index of a table that has an order and serves every row, and whether it is unique at each moment.
select string_agg(attname, ', ' order by attnum) as columns, indisunique and indimmediate as is_unique
  from pg_index
  join pg_class on pg_class.oid = indexrelid
  join pg_am on pg_am.oid = relam and amname = 'btree'
  join pg_attribute on attrelid = indexrelid and attnum <= indnkeyatts
 where indrelid = to_regclass($1::text)
   and indisvalid
   and indpred is null
   and indexprs is null
 group by indexrelid, indisunique, indimmediate;
