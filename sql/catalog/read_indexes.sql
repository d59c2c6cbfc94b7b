-- read_indexes(table text) -> many row
-- The key columns of each index of a table that has an order and serves every row, whether it is in plain ascending order, and the columns that it
-- holds besides; whether it is unique at each moment.
select string_agg(attname, ', ' order by attnum) filter (where attnum <= indnkeyatts) as columns, indisunique and indimmediate as is_unique,
       bool_and(indoption[attnum - 1] = 0 and opcdefault) filter (where attnum <= indnkeyatts) as is_ascending,
       coalesce(string_agg(attname, ', ' order by attname) filter (where attnum > indnkeyatts), '') as included
  from pg_index
  join pg_class on pg_class.oid = indexrelid
  join pg_am on pg_am.oid = relam and amname = 'btree'
  join pg_attribute on attrelid = indexrelid
  left join pg_opclass on pg_opclass.oid = indclass[attnum - 1]
 where indrelid = to_regclass($1::text)
   and indisvalid
   and indpred is null
   and indexprs is null
 group by indexrelid, indisunique, indimmediate;
