-- create_flow_run_state.queue(flow_run_id text) -> value text
-- Makes the creates of one run that have lost several races wait for each other until their transaction ends.
select pg_advisory_xact_lock(hashtextextended('flowstates run ' || $1::text, 0))::text;
