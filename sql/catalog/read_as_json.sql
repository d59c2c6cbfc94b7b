-- read_as_json(...) -> many row
-- The rows of a read, asked again with its own parameters and each as one text: for a time that asyncpg cannot decode, and for a
-- connection whose codecs give other types than the records have. JSON shows a time in one way whatever the DateStyle is.
select to_jsonb(read)::text as row
  from (/* slot: read */ select true /* end */) as read;
