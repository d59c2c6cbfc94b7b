-- read_flow_run_state_page.time(timestamp text, id text, most text) -> many FlowRunState
-- States that a filter lets through after a position in the order of time.
-- The position is never null, since a condition that can be left out would cost the index in a generic plan.
-- On our own table an index gives the order; on Prefect's tables every call sorts all states that the filter lets through.
-- `data` as in read_flow_run_state.
select flow_run_state.id::text as id, to_json(flow_run_state.created)::text as created, to_json(flow_run_state.updated)::text as updated,
       flow_run_state.flow_run_id::text as flow_run_id, flow_run_state.type::text as type, to_json(flow_run_state.timestamp)::text as timestamp,
       flow_run_state.name::text as name, flow_run_state.message::text as message, flow_run_state.state_details::text as state_details,
       case when flow_run_state.data not in ('null', '0', '""', '[]', '{}', 'false')
            then flow_run_state.data::text else artifact.data::text end as data,
       flow_run_state.result_artifact_id::text as result_artifact_id
  from flow_run_state
  left join artifact on artifact.id = flow_run_state.result_artifact_id
 where (flow_run_state.timestamp, flow_run_state.id) > ($1::text::timestamptz, $2::text::uuid)
   and (/* slot: filter */ true /* end */)
 order by flow_run_state.timestamp, flow_run_state.id
 limit $3::text::bigint;
