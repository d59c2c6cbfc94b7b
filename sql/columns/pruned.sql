-- What went, and how far it came: one row, or with an archive one beside each state that went.
total as (
    select (select count(*) from run)::text as runs, count(*)::text as states,
           coalesce((select sum(states) from locked), 0)::text as chosen,
           -- Besides these columns a row takes a head, six columns that are always there, and a place in the page.
           coalesce(sum(100 + pg_column_size(gone.name) + coalesce(pg_column_size(gone.message), 0) + pg_column_size(gone.state_details)
                        + coalesce(pg_column_size(gone.data), 0)), 0)::text as bytes
      from gone
), passed as (
    select ((select count(*) from chosen) - (select count(*) from locked))::text as runs
)
select /* slot: state */ state.* /* end */, total.runs as runs_gone, total.states as states_gone, total.bytes as bytes_gone,
       total.chosen as states_chosen, passed.runs as runs_passed,
       reached.timestamp as reached_timestamp, reached.id as reached_id, reached.is_last::text as is_last
