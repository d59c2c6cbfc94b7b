-- move(name text, transaction text, timestamp text, id text, known text) -> affected
-- A consumer, known or new, comes to a place. It waits for who has it.
insert into flowstates_consumer as consumer (name, transaction, timestamp, id, known)
select $1::text, $2::text::xid8, $3::text::timestamptz, $4::text::uuid, coalesce(nullif($5::text, ''), pg_current_snapshot()::text)
    on conflict (name) do update
   set transaction = excluded.transaction, timestamp = excluded.timestamp, id = excluded.id, known = excluded.known, updated = clock_timestamp();
