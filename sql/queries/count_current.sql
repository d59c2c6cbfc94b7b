-- count_current() -> many row
-- How many runs are in each type now, and the server's clock; one row without a type where there are no runs.
select flow_run.type, flow_run.runs, to_json(clock_timestamp() at time zone 'UTC')::text as at
  from (values (true)) as one (row)
  left join (
       select state_type::text as type, count(*)::text as runs
         from flow_run
        where (/* slot: filter */ true /* end */)
        group by state_type
       ) as flow_run on true;
