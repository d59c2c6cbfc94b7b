-- The next runs of a type whose last state is before a time, from a position on, in the order of that time.
candidate as materialized (
    select id, state_id, state_timestamp, version, row_number() over (order by state_timestamp, id) as place
      from (select flow_run.id, flow_run.state_id, flow_run.state_timestamp, flow_run.xmin as version
              from flow_run
             where flow_run.state_type = $1::text::state_type
               and flow_run.state_timestamp < $2::text::timestamptz
               and (flow_run.state_timestamp, flow_run.id) > ($3::text::timestamptz, $4::text::uuid)
               and ($7::text is null or flow_run.id = $7::text::uuid)
             order by flow_run.state_timestamp, flow_run.id
             limit $5::text::bigint) as run
)
