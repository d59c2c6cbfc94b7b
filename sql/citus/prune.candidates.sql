-- prune.candidates(type text, before text, after_timestamp text, after_id text, runs text, flow_run_id text) -> many row
-- The next runs of a type whose last state is before a time, from a position on, in the order of that time, each with how many states it has.
select flow_run.id::text as id, to_json(flow_run.state_timestamp at time zone 'UTC')::text as timestamp,
       (select count(*) from flow_run_state as state where state.flow_run_id = flow_run.id)::text as states
  from flow_run
 where flow_run.state_type = $1::text::state_type
   and flow_run.state_timestamp < $2::text::timestamptz
   and (flow_run.state_timestamp, flow_run.id) > ($3::text::timestamptz, $4::text::uuid)
   and ($6::text is null or flow_run.id = $6::text::uuid)
 order by flow_run.state_timestamp, flow_run.id
 limit $5::text::bigint;
