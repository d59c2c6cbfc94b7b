-- read_checks(table text) -> many row
-- The check constraints of a table, in the server's words; one row of nulls without any.
-- The server shows times in a constraint as it shows all times, so the zone and the style are set for as long as that takes, and set back also where
-- there is none, as in a caller's transaction they would else stay.
with before as materialized (
    select current_setting('TimeZone') as zone, current_setting('DateStyle') as style
), during as materialized (
    select set_config('TimeZone', 'UTC', true) as zone, set_config('DateStyle', 'ISO', true) as style from before
), found as materialized (
    select conname::text as name, replace(replace(pg_get_constraintdef(pg_constraint.oid), '"', ''), 'pg_catalog.', '') as definition
      from during
     cross join pg_constraint
     where conrelid = to_regclass($1::text)
       and contype = 'c'
), since as materialized (
    select set_config('TimeZone', before.zone, true) as zone, set_config('DateStyle', before.style, true) as style
      from before
     cross join (select count(*) from found) as done
)
select found.name, found.definition
  from since
  left join found on true;
