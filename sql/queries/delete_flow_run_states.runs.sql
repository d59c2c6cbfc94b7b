-- delete_flow_run_states.runs(flow_run_ids text[]) -> values text
-- Deletes all states of some runs and gives the ids that went.
delete from flow_run_state
 where flow_run_id = any ($1::text[]::uuid[])
   and /* slot: is_own */ true /* end */
returning id::text;
