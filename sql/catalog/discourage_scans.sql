-- discourage_scans() -> one row
-- Until the transaction ends a plan reads a whole table, or sorts, only where no index serves: on a small table, or one whose statistics are
-- old, it would otherwise do so by right, and a missing index would not show.
select set_config('enable_seqscan', 'off', true) as seqscan, set_config('enable_sort', 'off', true) as sort,
       set_config('enable_bitmapscan', 'off', true) as bitmapscan, set_config('jit', 'off', true) as jit;
