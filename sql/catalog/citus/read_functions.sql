-- read_functions(name text) -> many row
-- The functions of a name on the search path: their parameters, their definition in words of SQL, and how Citus distributes them: by the parameter of
-- which number from 0 on, with which tables, and whether inside of transactions too.
select pg_get_function_identity_arguments(pg_proc.oid) as arguments,
       concat_ws(' ', 'returns', case when proretset then 'setof' end, typname, 'language', lanname,
                 case provolatile when 'i' then 'immutable' when 's' then 'stable' end,
                 case when proisstrict then 'strict' end, case when prosecdef then 'security definer' end,
                 case when proleakproof then 'leakproof' end, case proparallel when 's' then 'parallel safe' when 'r' then 'parallel restricted' end,
                 (select string_agg('set ' || replace(replace(setting, '=', ' = '), '"', ''), ' ') from unnest(proconfig) as setting)) as head,
       prosrc as body, distribution_argument_index as argument, colocationid::text as colocation, coalesce(force_delegation, false) as is_forced
  from pg_proc
  join pg_language on pg_language.oid = prolang
  join pg_type on pg_type.oid = prorettype
  left join pg_catalog.pg_dist_object on classid = 'pg_proc'::regclass and objid = pg_proc.oid and objsubid = 0
 where proname = $1::text
   and pg_function_is_visible(pg_proc.oid);
