"""The address of a server on a socket, against what the variables of asyncpg and libpq say of other servers.

Both take from PG* what an address leaves out: certificates that are not there, a server that is a standby, a host. Names and meanings:
https://www.postgresql.org/docs/current/libpq-envars.html, held against asyncpg and libpq by a test.
"""

from __future__ import annotations

import os

# Values that do no harm on a socket without TLS and passwords, and what the address says against all others. libpq takes a part without a value for
# one that is not to be had from the variable, and asyncpg passes it over.
_AGAINST: dict[str, tuple[tuple[str, ...], str]] = {
    "PGGSSLIB": (("gssapi", "sspi"), "gsslib=gssapi"),
    "PGHOSTADDR": (("",), "hostaddr="),
    "PGOPTIONS": (("",), "options="),
    "PGPASSFILE": ((), "passfile=/dev/null/none"),  # not /dev/null, of which libpq says that it is no file
    "PGREQUIREAUTH": (("",), "require_auth="),
    "PGREQUIREPEER": (("",), "requirepeer="),
    "PGSSLMAXPROTOCOLVERSION": (("",), "ssl_max_protocol_version="),
    "PGSSLMINPROTOCOLVERSION": (("",), "ssl_min_protocol_version="),
    "PGSSLNEGOTIATION": (("postgres",), "sslnegotiation=postgres"),
    "PGSSLROOTCERT": (("",), "sslrootcert="),
    "PGTARGETSESSIONATTRS": (("any",), "target_session_attrs=any"),
}
# asyncpg reads these for TLS even where it connects without.
_OF_TLS = ("PGSSLCERT", "PGSSLCRL", "PGSSLKEY", "PGSSLMAXPROTOCOLVERSION", "PGSSLMINPROTOCOLVERSION", "PGSSLROOTCERT")


def socket_address(folder: str | os.PathLike[str]) -> str:
    """The address of the database postgres on the server whose socket is in the folder, port 5432, for the superuser postgres.

    It says no more than our environment makes necessary: SQLAlchemy does not take `sslmode`.
    """
    parts = [f"host={os.fspath(folder)}", "port=5432"]
    mode = os.environ.get("PGSSLMODE", "disable")
    if mode != "disable" and (mode not in ("allow", "prefer", "require") or any(name in os.environ for name in _OF_TLS)):
        parts.append("sslmode=disable")
    parts += [part for name, (harmless, part) in _AGAINST.items() if name in os.environ and os.environ[name] not in harmless]
    return f"postgresql://postgres@/postgres?{'&'.join(parts)}"
