-- forget(name text) -> value text
-- Deletes a consumer; no row if there was none. It waits for who has it.
delete from flowstates_consumer
 where name = $1::text
returning name::text;
