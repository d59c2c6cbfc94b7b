-- record_migration(name text, checksum text) -> affected
-- Records that a migration was applied.
insert into flowstates_migration (name, checksum) values ($1, $2);
