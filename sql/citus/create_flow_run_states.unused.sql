-- create_flow_run_states.unused(flow_run_ids text[]) -> affected
-- Takes back the rows of new runs of which no state was stored.
delete from flow_run
 where id = any ($1::text[]::uuid[])
   and state_timestamp = '-infinity';
