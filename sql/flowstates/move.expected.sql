-- move.expected(name text, transaction text, timestamp text, id text, known text, expected_transaction text, expected_timestamp text, expected_id text) -> value text
-- A consumer that is at one place comes to another; no row if it is not there any more. It waits for who has it.
update flowstates_consumer
   set transaction = $2::text::xid8, timestamp = $3::text::timestamptz, id = $4::text::uuid, known = coalesce(nullif($5::text, ''), pg_current_snapshot()::text), updated = clock_timestamp()
 where name = $1::text
   and (transaction, timestamp, id) = ($6::text::xid8, $7::text::timestamptz, $8::text::uuid)
returning name::text;
