-- read_indexes(table text) -> many row
-- The key columns of each index of a table that serves every row, and whether it is unique.
select string_agg(attname, ', ' order by attnum) as columns, indisunique as is_unique
  from pg_index
  join pg_attribute on attrelid = indexrelid and attnum <= indnkeyatts
 where indrelid = to_regclass($1::text)
   and indisvalid
   and indpred is null
 group by indexrelid, indisunique;
