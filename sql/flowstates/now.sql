-- now() -> value text
-- The oldest transaction that is open, or the next one to come: before it all is told, and what it writes is not.
select pg_snapshot_xmin(pg_current_snapshot())::text;
