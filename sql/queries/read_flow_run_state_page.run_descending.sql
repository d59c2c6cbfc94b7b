-- read_flow_run_state_page.run_descending(flow_run_id text, timestamp text, most text) -> many FlowRunState
-- States that a filter lets through before a position in the order of runs, backwards.
-- The position is never null, since a condition that can be left out would cost the index in a generic plan.
select id::text as id, to_json(created at time zone 'UTC')::text as created,
       to_json(nullif(updated, created) at time zone 'UTC')::text as updated, flow_run_id::text as flow_run_id, type::text as type,
       to_json(timestamp at time zone 'UTC')::text as timestamp, name::text as name, message::text as message,
       state_details::text as state_details, data::text as data, result_artifact_id::text as result_artifact_id
  from flow_run_state
 where (flow_run_id, timestamp) < ($1::text::uuid, $2::text::timestamptz)
   and (/* slot: filter */ true /* end */)
 order by flow_run_state.flow_run_id desc, flow_run_state.timestamp desc
 limit $3::text::bigint;
