-- prune.oldest(type text) -> many row
-- The run of a type whose last state is the oldest; no row if there is none. A probe on each server.
select flow_run.id::text as id, flow_run.state_type::text as type, to_json(flow_run.state_timestamp at time zone 'UTC')::text as timestamp
  from flow_run
 where flow_run.state_type = $1::text::state_type
 order by flow_run.state_timestamp, flow_run.id
 limit 1;
