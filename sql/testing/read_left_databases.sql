-- What sessions left that are gone. A session holds a lock for as long as it lives, and its databases have its number in their names.
select database.datname::text as name
  from pg_database as database
 where database.datname ~ '^flowstates_test_[0-9a-f]{16}_[0-9]+$'
   and pg_has_role(database.datdba, 'usage')
   and not exists (
       select
         from pg_locks as held
        where held.locktype = 'advisory'
          and held.objsubid = 1
          and lpad(to_hex(held.classid::bigint), 8, '0') || lpad(to_hex(held.objid::bigint), 8, '0') = substr(database.datname, 17, 16));
