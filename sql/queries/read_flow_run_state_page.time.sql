-- read_flow_run_state_page.time(timestamp text, id text, most text) -> many FlowRunState
-- States that a filter lets through after a position in the order of time.
-- The position is never null, since a condition that can be left out would cost the index in a generic plan.
-- On our own table an index gives the order; on Prefect's tables every call sorts all states that the filter lets through.
select id::text as id, to_json(created at time zone 'UTC')::text as created,
       to_json(nullif(updated, created) at time zone 'UTC')::text as updated, flow_run_id::text as flow_run_id, type::text as type,
       to_json(timestamp at time zone 'UTC')::text as timestamp, name::text as name, message::text as message,
       state_details::text as state_details, data::text as data, result_artifact_id::text as result_artifact_id
  from flow_run_state
 where (timestamp, id) > ($1::text::timestamptz, $2::text::uuid)
   and (/* slot: filter */ true /* end */)
 order by flow_run_state.timestamp, flow_run_state.id
 limit $3::text::bigint;
