-- explain(...) -> many row
-- The plan of a query with its own parameters, as JSON. The query is not run.
explain (format json) /* slot: query */ select 1 /* end */;
