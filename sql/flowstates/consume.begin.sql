-- consume.begin(name text, transaction text, timestamp text, id text, known text) -> affected
-- A new consumer, which has come to a place; nothing for a known one.
insert into flowstates_consumer (name, transaction, timestamp, id, known)
select $1::text, $2::text::xid8, $3::text::timestamptz, $4::text::uuid, coalesce(nullif($5::text, ''), pg_current_snapshot()::text)
    on conflict do nothing;
