-- read_flow_run_states_by_run(flow_run_ids text, last text) -> many FlowRunState
-- The newest states of each run, newest first within a run, two index probes a run. The runs are taken from the table, as each server finds its own.
select /* slot: state */ state.* /* end */
  from flow_run as run
 cross join lateral (
       select flow_run_state.*
         from flow_run_state
        where flow_run_state.flow_run_id = run.id
        order by flow_run_state.timestamp desc
        limit $2::text::bigint) as state
 -- By immutable functions, so that Citus knows the runs when it plans, and asks the servers that have them. A cast of the text is not one.
 where run.id = any (string_to_array(btrim($1::text, '{}'), ',')::uuid[]);
