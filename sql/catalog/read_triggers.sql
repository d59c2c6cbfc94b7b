-- read_triggers(table text) -> many row
-- The triggers of a table: when each fires (O is on), its definition in words of SQL, whether it can change or keep back what is
-- written or deleted, and its function. Made from the catalog's columns, as the server's own text depends on the session's search path and quotes.
select tgname::text as name, tgenabled::text as fires, tgtype & 3 = 3 and tgtype & 28 <> 0 as changes_rows,
       concat_ws(' ', case when tgtype & 2 <> 0 then 'before' when tgtype & 64 <> 0 then 'instead of' else 'after' end,
                 concat_ws(' or ', case when tgtype & 4 <> 0 then 'insert' end, case when tgtype & 8 <> 0 then 'delete' end,
                           case when tgtype & 16 <> 0 then 'update' end, case when tgtype & 32 <> 0 then 'truncate' end),
                 'on', relname, case when tgoldtable is not null or tgnewtable is not null then 'referencing' end,
                 'old table as ' || tgoldtable, 'new table as ' || tgnewtable,
                 'for each', case when tgtype & 1 <> 0 then 'row' else 'statement' end, case when tgqual is not null then 'when (...)' end,
                 'execute function', proname || case when tgnargs = 0 then '()' else '(...)' end) as definition,
       concat_ws(' ', 'returns', typname, 'language', lanname, case provolatile when 'i' then 'immutable' when 's' then 'stable' end,
                 case when proisstrict then 'strict' end, case when prosecdef then 'security definer' end,
                 case when proleakproof then 'leakproof' end, case proparallel when 's' then 'parallel safe' when 'r' then 'parallel restricted' end,
                 (select string_agg('set ' || replace(replace(setting, '=', ' = '), '"', ''), ' ') from unnest(proconfig) as setting)) as head,
       prosrc as body
  from pg_trigger
  join pg_class on pg_class.oid = tgrelid
  join pg_proc on pg_proc.oid = tgfoid
  join pg_language on pg_language.oid = prolang
  join pg_type on pg_type.oid = prorettype
 where tgrelid = to_regclass($1::text)
   and not tgisinternal
 order by tgname;
