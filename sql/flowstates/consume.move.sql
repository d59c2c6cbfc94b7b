-- consume.move(name text, transaction text, timestamp text, id text, missing text) -> value text
-- A consumer that is locked comes to a place.
update flowstates_consumer
   set transaction = $2::text::xid8, timestamp = $3::text::timestamptz, id = $4::text::uuid, missing = $5::text::xid8, updated = clock_timestamp()
 where name = $1::text
returning name::text;
