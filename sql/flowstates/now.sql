-- now() -> one row
-- The oldest transaction that is open, or the next one to come: before it all is told, and what it writes is not. And the last transaction of
-- which states are known to be gone.
select pg_snapshot_xmin(pg_current_snapshot())::text as transaction,
       (select transaction from flowstates_pruned order by transaction desc, timestamp desc, id desc limit 1)::text as missing;
