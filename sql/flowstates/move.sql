-- move(name text, transaction text, timestamp text, id text, missing text) -> affected
-- A consumer, known or new, comes to a place. It waits for who has it.
insert into flowstates_consumer as consumer (name, transaction, timestamp, id, missing)
select $1::text, $2::text::xid8, $3::text::timestamptz, $4::text::uuid, $5::text::xid8
    on conflict (name) do update
   set transaction = excluded.transaction, timestamp = excluded.timestamp, id = excluded.id, missing = excluded.missing, updated = clock_timestamp();
