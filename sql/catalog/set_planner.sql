-- set_planner(seqscan text, bitmapscan text) -> one row
-- Whether plans may read a whole table, or by a bitmap, until the transaction ends, and what held before. With `off` they do so only where no
-- index serves.
select current_setting('enable_seqscan') as seqscan, current_setting('enable_bitmapscan') as bitmapscan,
       set_config('enable_seqscan', $1, true) as seqscan_now, set_config('enable_bitmapscan', $2, true) as bitmapscan_now;
