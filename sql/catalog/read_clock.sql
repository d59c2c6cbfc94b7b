-- read_clock() -> one row
-- The server's clock, and its limit for a statement in milliseconds; 0 is none.
select to_json(clock_timestamp() at time zone 'UTC')::text as now, (select setting from pg_settings where name = 'statement_timeout') as statement_timeout;
