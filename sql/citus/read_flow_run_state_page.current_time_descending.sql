-- read_flow_run_state_page.current_time_descending(timestamp text, flow_run_id text, most text, types text) -> many FlowRunState
-- Current states of some types that a filter lets through before a position in the order of time and, at one time, of runs, backwards.
-- Each server gives a page of its runs in the index's order where one type is asked for, and else sorts those that are in these types; of all
-- these the page is found, and then its states.
select /* slot: state */ state.* /* end */
  from (select flow_run.id, flow_run.state_id, flow_run.state_timestamp
          from flow_run
         where flow_run.state_type = any ($4::text::state_type[])
           and (flow_run.state_timestamp, flow_run.id) < ($1::text::timestamptz, $2::text::uuid)
           and (/* slot: filter */ true /* end */)
         order by flow_run.state_timestamp desc, flow_run.id desc
         limit $3::text::bigint) as flow_run
  join flow_run_state as state on /* slot: is_current */ state.id = flow_run.state_id /* end */
 order by flow_run.state_timestamp desc, flow_run.id desc;
