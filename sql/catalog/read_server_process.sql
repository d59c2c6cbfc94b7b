-- read_server_process() -> one row
-- The server process that answers on the connection, which behind a pooler is not the one that the connection was told at its start.
select pg_backend_pid() as process;
