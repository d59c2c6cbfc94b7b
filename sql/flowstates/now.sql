-- now() -> one row
-- The oldest transaction that is open, or the next one to come: before it all is told, and what it writes is not. And what was pruned as far as this
-- sees is known.
select pg_snapshot_xmin(pg_current_snapshot())::text as transaction, pg_current_snapshot()::text as known;
