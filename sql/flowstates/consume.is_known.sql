-- consume.is_known(name text) -> value text
-- Whether there is a consumer of that name.
select exists (select from flowstates_consumer where name = $1::text)::text;
