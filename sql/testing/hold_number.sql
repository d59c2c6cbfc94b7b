-- Held until the connection ends.
select pg_advisory_lock($1::bigint);
