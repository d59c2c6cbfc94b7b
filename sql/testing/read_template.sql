-- Whether there is a template of that name that nobody can connect to; no row for none.
select not datallowconn as is_closed, datistemplate as is_template
  from pg_database
 where datname = $1::text;
