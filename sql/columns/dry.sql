-- What a prune would delete, and how far it would come.
select (select count(*) from chosen)::text as runs_gone, coalesce((select sum(states) from chosen), 0)::text as states_gone, null::text as bytes_gone,
       '0'::text as runs_passed, reached.timestamp as reached_timestamp, reached.id as reached_id, reached.is_last::text as is_last
  from (values (1)) as answer
  left join reached on true
