-- read_distribution(table text) -> optional row
-- By which column Citus distributes a table, null for one that it does not distribute by a column; with which tables it is kept, and how many copies
-- of a row there are. No row for a table that Citus does not know.
select column_to_column_name(logicalrelid, partkey) as column, pg_dist_partition.colocationid::text as colocation, replicationfactor as copies
  from pg_catalog.pg_dist_partition
  left join pg_catalog.pg_dist_colocation on pg_dist_colocation.colocationid = pg_dist_partition.colocationid
 where logicalrelid = to_regclass($1::text);
