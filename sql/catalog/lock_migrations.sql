-- lock_migrations() -> one row
-- Makes concurrent migrations wait for each other until the transaction ends.
select pg_advisory_xact_lock(hashtextextended('flowstates migrate', 0))::text as locked;
