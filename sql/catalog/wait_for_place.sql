-- wait_for_place() -> one row
-- From PostgreSQL 19 on: waits until a standby has come to a place of its log, in a transaction that has no snapshot. It takes no parameters: both
-- slots are filled with digits, of a place that was read as one and of milliseconds.
wait for lsn /* slot: lsn */ '0/0' /* end */ with (timeout /* slot: milliseconds */ 1 /* end */, no_throw);
