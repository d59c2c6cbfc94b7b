-- consume.begin(name text, transaction text, timestamp text, id text, missing text) -> affected
-- A new consumer, which has come to a place; nothing for a known one.
insert into flowstates_consumer (name, transaction, timestamp, id, missing)
select $1::text, $2::text::xid8, $3::text::timestamptz, $4::text::uuid, $5::text::xid8
    on conflict do nothing;
