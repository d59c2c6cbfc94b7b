-- read_stored_states(after text, most text) -> many row
-- The next states after an id, the first ones without it, in the order of ids: every time that a row can hold is passed alike.
select /* slot: state */ state.* /* end */
  from flow_run_state as state
 where ($1::text is null or state.id > $1::text::uuid)
 order by state.id
 limit $2::text::bigint;
