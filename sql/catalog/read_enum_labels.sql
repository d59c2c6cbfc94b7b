-- read_enum_labels(type text) -> many row
-- The labels of an enum on the search path, in its order; no rows if there is none of that name.
select enumlabel::text as label
  from pg_enum
 where enumtypid = to_regtype($1::text)
 order by enumsortorder;
