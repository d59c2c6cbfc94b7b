-- read_flow_run_state_page.current_time(timestamp text, flow_run_id text, most text, types text) -> many FlowRunState
-- Current states of some types that a filter lets through after a position in the order of time and, at one time, of runs.
-- Each type's newest or oldest are at one place in the index, so there are at most a page of each, and of these the page is found. The state's
-- limit of one lets no plan read more states than those of the page.
select /* slot: state */ state.* /* end */
  from (select flow_run.id, flow_run.state_id, flow_run.state_timestamp
          from unnest($4::text::state_type[]) as asked (type)
         cross join lateral (
               select flow_run.id, flow_run.state_id, flow_run.state_timestamp
                 from flow_run
                where flow_run.state_type = asked.type
                  and (flow_run.state_timestamp, flow_run.id) > ($1::text::timestamptz, $2::text::uuid)
                  and (/* slot: filter */ true /* end */)
                order by flow_run.state_timestamp, flow_run.id
                limit $3::text::bigint) as flow_run
         order by flow_run.state_timestamp, flow_run.id
         limit $3::text::bigint) as flow_run
 cross join lateral (select flow_run_state.* from flow_run_state where flow_run_state.id = flow_run.state_id limit 1) as state
 order by flow_run.state_timestamp, flow_run.id;
