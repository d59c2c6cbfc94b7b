-- read_triggers(table text) -> many row
-- The triggers of a table that are on.
select tgname::text as name
  from pg_trigger
 where tgrelid = to_regclass($1::text)
   and tgenabled <> 'D'
   and not tgisinternal;
