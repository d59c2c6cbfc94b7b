-- read_flow_run_states_as_of.timestamp(flow_run_ids text, at text) -> many FlowRunState
-- The state of each run that had begun last at a moment, two index probes a run.
select /* slot: state */ state.* /* end */
  from flow_run as run
 cross join lateral (
       select flow_run_state.*
         from flow_run_state
        where flow_run_state.flow_run_id = run.id
          and flow_run_state.timestamp <= $2::text::timestamptz
        order by flow_run_state.timestamp desc
        limit 1) as state
 -- By immutable functions, so that Citus knows the runs when it plans, and asks the servers that have them. A cast of the text is not one.
 where run.id = any (string_to_array(btrim($1::text, '{}'), ',')::uuid[]);
