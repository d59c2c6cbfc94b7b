"""What may succeed when it is done again, and who is told that it is done again."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import asyncpg

from flowstates.errors import ContentionError

LOG = logging.getLogger("flowstates")
"""The one logger. What follows by itself is at most INFO: an error is raised, and its catcher's to log."""

UNDONE = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
"""What the server undoes for another transaction's sake: done again it may succeed."""

_RETRYABLE = (
    ContentionError,
    *UNDONE,
    asyncpg.LockNotAvailableError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
_UNSUPPORTED = (asyncpg.UnsupportedClientFeatureError, asyncpg.UnsupportedServerFeatureError)
_KEYS = frozenset({"pk_flow_run", "pk_flow_run_state", "uq_flow_run_state__flow_run_id_timestamp"})

_PASSES = re.compile(
    "connection is closed|released back to the pool|another operation is cancelling|pool is being initialized|transaction is in error state"
)
"""What asyncpg's InterfaceError says of a connection that is gone, or of what is under way. All else that it says is of a caller's mistake."""

listeners: list[Callable[[], None]] = []
"""Each is called when something is done again, in the task that does it."""


def is_retryable(error: BaseException) -> bool:
    """Whether what raised the error may succeed when it is done again as it was: a call, or the caller's whole transaction if it was in one.

    True for what the server undoes for another transaction's sake (40001, 40P01), for a lock that was not to be had (55P03), for ContentionError, for
    two transactions that created one id or one run at a moment (23505 of a key of ours), and for what asyncpg raises when a connection breaks or
    cannot be had: its PostgresConnectionError, InternalClientError, an InterfaceError of that, a server that starts or stops (57P01 to 57P03), a
    session that was idle too long (25P03, 57P05), too many connections (53300), OSError and with it TimeoutError.

    True too for SQLAlchemy's DBAPIError of one of these, or of a connection that it has given up, and for its TimeoutError, of a pool that had none
    free.

    False for all else: a wrong argument, another state than the expected one, what a statement_timeout or a person has cancelled (57014), a
    cancellation of the task, an OSError of a file, and what asyncpg's InterfaceError says of misuse: a closed pool, a second call at once on one
    connection, a transaction that is started twice. A connection used after it was given back to its pool is true, as asyncpg says the same of one
    that was lost, and so is a rollback of a transaction whose commit failed, which hides why; so a loop is to have an end.

    After an error of a connection or a TimeoutError a create may have been stored: only one with an `id` of the caller's is to be done again.
    """
    if isinstance(error, asyncpg.UniqueViolationError):
        return error.constraint_name in _KEYS
    if isinstance(error, OSError) and error.filename is not None:
        return False  # of a file; what a Unix socket says names none
    if isinstance(error, asyncpg.InterfaceError) and not _PASSES.search(str(error)):
        return False
    # What asyncpg makes of a wrong value or option is an InterfaceError and a ValueError.
    if isinstance(error, _RETRYABLE):
        return not isinstance(error, (ValueError, *_UNSUPPORTED))
    return _is_retryable_of_sqlalchemy(error)


def _is_retryable_of_sqlalchemy(error: BaseException) -> bool:
    names = {one.__name__ for one in type(error).__mro__ if one.__module__ == "sqlalchemy.exc"}
    if "DBAPIError" not in names:
        return "TimeoutError" in names  # no connection of its pool became free
    # SQLAlchemy's error is of one of its own that stands for the driver's, whose cause is the driver's.
    of_driver = getattr(getattr(error, "orig", None), "__cause__", None)
    return bool(getattr(error, "connection_invalidated", False)) or (of_driver is not None and is_retryable(of_driver))


def retrying(what: str, why: object) -> None:
    """Tells the log and the listeners that `what` is done again."""
    LOG.debug("%s is done again: %s", what, str(why).partition("\n")[0])
    for listener in listeners:
        listener()
