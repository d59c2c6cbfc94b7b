-- read_clock() -> one row
-- The server's clock, its limit for a statement in milliseconds, 0 for none, and whether row level security may hide states from this role.
select to_json(clock_timestamp() at time zone 'UTC')::text as now, (select setting from pg_settings where name = 'statement_timeout') as statement_timeout,
       row_security_active(to_regclass('flow_run_state'))::text as may_hide;
