-- read_flow_run_state_page.time_descending(timestamp text, id text, most text) -> many FlowRunState
-- States that a filter lets through before a position in the order of time, backwards.
-- The position is never null, since a condition that can be left out would cost the index in a generic plan.
-- On our own table an index gives the order; on Prefect's tables every call sorts all states that the filter lets through.
-- Those of the page are found before anything is made text.
-- `data` as in read_flow_run_state.
select state.id::text as id, to_json(state.created at time zone 'UTC')::text as created,
       to_json(state.updated at time zone 'UTC')::text as updated, state.flow_run_id::text as flow_run_id,
       state.type::text as type, to_json(state.timestamp at time zone 'UTC')::text as timestamp, state.name::text as name,
       state.message::text as message, state.state_details::text as state_details,
       case when state.data not in ('null', '0', '""', '[]', '{}', 'false')
            then state.data::text else artifact.data::text end as data,
       state.result_artifact_id::text as result_artifact_id
  from (select id, created, updated, flow_run_id, type, timestamp, name, message, state_details, data, result_artifact_id
          from flow_run_state
         where (timestamp, id) < ($1::text::timestamptz, $2::text::uuid)
           and (/* slot: filter */ true /* end */)
         order by timestamp desc, id desc
         limit $3::text::bigint) as state
  left join artifact on artifact.id = state.result_artifact_id
 order by state.timestamp desc, state.id desc;
