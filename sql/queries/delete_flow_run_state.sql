-- delete_flow_run_state(flow_run_state_id text) -> value text
-- Deletes one state by its id; no row if there was none.
delete from flow_run_state
 where id = $1::text::uuid
   and /* slot: is_own */ true /* end */
returning id::text;
