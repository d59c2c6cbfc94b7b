-- consume.lock(name text) -> optional row
-- How far a consumer has come, locked until the transaction ends; no row for an unknown one. It waits for who has it.
select /* slot: consumer */ consumer.* /* end */
  from flowstates_consumer as consumer
 where consumer.name = $1::text
   for no key update;
