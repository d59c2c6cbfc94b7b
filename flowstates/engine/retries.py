"""What may succeed when it is done again, and who is told that it is done again."""

from __future__ import annotations

import logging
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

listeners: list[Callable[[], None]] = []
"""Each is called when something is done again, in the task that does it."""


def is_retryable(error: BaseException) -> bool:
    """Whether what raised the error may succeed when it is done again as it was: a call, or the caller's whole transaction if it was in one.

    True for what the server undoes for another transaction's sake (40001, 40P01), for a lock that was not to be had (55P03), for ContentionError, for
    two transactions that created one id or one run at a moment (23505 of a key of ours), and for what asyncpg raises when a connection breaks or
    cannot be had: its PostgresConnectionError, InterfaceError and InternalClientError, a server that starts or stops (57P01 to 57P03), a session
    that was idle too long (25P03, 57P05), too many connections (53300), OSError and with it TimeoutError.

    False for all else: a wrong argument, another state than the expected one, what a statement_timeout or a person has cancelled (57014), a
    cancellation of the task. A closed pool is an InterfaceError as well, so a loop is to have an end. After an error of a connection or a
    TimeoutError a create may have been stored: only one with an `id` of the caller's is to be done again.
    """
    if isinstance(error, asyncpg.UniqueViolationError):
        return error.constraint_name in _KEYS
    # What asyncpg makes of a wrong value or option is an InterfaceError and a ValueError.
    return isinstance(error, _RETRYABLE) and not isinstance(error, (ValueError, *_UNSUPPORTED))


def retrying(what: str, why: object) -> None:
    """Tells the log and the listeners that `what` is done again."""
    LOG.debug("%s is done again: %s", what, str(why).partition("\n")[0])
    for listener in listeners:
        listener()
