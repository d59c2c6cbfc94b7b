-- read_migration_table() -> one row
-- Whether the search path finds where applied migrations are recorded, and whether it may be read.
select to_regclass('flowstates_migration') is not null as is_there,
       coalesce(has_table_privilege(to_regclass('flowstates_migration'), 'select'), false) as is_readable;
