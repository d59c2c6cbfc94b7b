-- delete_flow_run_states.ids(flow_run_state_ids text[]) -> values text
-- Deletes states by their ids and gives the ids that went.
delete from flow_run_state
 where id = any ($1::text[]::uuid[])
   and /* slot: is_own */ true /* end */
returning id::text;
