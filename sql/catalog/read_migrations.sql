-- read_migrations() -> many row
-- The migrations that were applied, in order.
select name, checksum
  from flowstates_migration
 order by name;
