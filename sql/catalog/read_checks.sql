-- read_checks(table text) -> many row
-- The check constraints of a table that hold for every row.
select conname::text as name
  from pg_constraint
 where conrelid = to_regclass($1::text)
   and contype = 'c'
   and convalidated;
