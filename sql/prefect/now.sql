-- now() -> one row
-- Since when transactions may be open, and which ones are of which that is not seen: a page after this may tell what was sent before.
with /* slot: open */ open as (
    select statement_timestamp() as begun, null::text as unseen
) /* end */
select to_json(begun at time zone 'UTC')::text as begun, unseen
  from open;
