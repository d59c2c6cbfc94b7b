-- What sessions left that hold no lock any more, whose number their databases have in their names. What is in use, but by autovacuum, stays.
select database.datname::text as name
  from pg_database as database
 where database.datname ~ '^flowstates_test_[0-9a-f]{16}_[0-9]+$'
   and pg_has_role(database.datdba, 'usage')
   and not exists (
       select
         from pg_stat_activity as connected
        where connected.datname = database.datname
          and connected.usesysid is not null)
   and not exists (select from pg_prepared_xacts as prepared where prepared.database = database.datname)
   and not exists (
       select
         from pg_locks as held
        where held.locktype = 'advisory'
          and held.objsubid = 1
          and lpad(to_hex(held.classid::bigint), 8, '0') || lpad(to_hex(held.objid::bigint), 8, '0') = substr(database.datname, 17, 16));
