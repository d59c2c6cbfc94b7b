-- consume.lock(name text) -> optional row
-- How far a consumer has come, locked until the transaction ends; no row for an unknown one. It waits for who has it.
select transaction::text as transaction, to_json(timestamp at time zone 'UTC')::text as timestamp, id::text as id, missing::text as missing
  from flowstates_consumer
 where name = $1::text
   for no key update;
