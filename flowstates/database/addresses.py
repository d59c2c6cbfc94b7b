"""Addresses of databases: SQLAlchemy's as asyncpg takes them, and what asyncpg would read wrongly refused before it is read.

A special character that stands unescaped in a password makes a piece of the password a host, a port or an option, and errors name those.
So no error here says what it found, and none has another one behind it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, parse_qs, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from flowstates.errors import InvalidInputError
from flowstates.values import kind_of

# As sqlalchemy.make_url has it: a password ends at the first @ and may hold all the rest, a host is not unescaped.
_OF_SQLALCHEMY = re.compile(
    r"""postgres(?:ql)?\+asyncpg://
    (?: (?P<user>[^:/]*) (?: :(?P<password>[^@]*) )? @ )?
    (?: \[(?P<ipv6>[^/?]+)\] | (?P<host>[^/:?]+) )?
    (?: :(?P<port>[^/?]*) )?
    (?: /(?P<database>[^?]*) )?
    (?: \?(?P<query>.*) )?""",
    re.VERBOSE,
)
_FORM = "is not like postgresql://user:password@host:5432/database with special characters percent-encoded"
_AT = "has an @ that is not the one before the host: write it as %40, in a password too"
_PORT = "has a port that is not a number from 1 to 65535; a : before it that belongs to the password is written as %3A"

# Drivers of SQLAlchemy's beside asyncpg. What else may stand in their place is not repeated, as it may be a piece of a password.
_OTHER_DRIVERS = re.compile(r"postgres(?:ql)?\+(psycopg|psycopg_async|psycopg2|psycopg2cffi|pg8000|pygresql|pypostgresql|psqlpy):")

# Where an @ may be left as it is, as in the users of some hosting services.
_WITH_AT = ("user", "password", "options", "application_name")

# Options that libpq has and asyncpg would send to the server, which refuses them: each with the values that ask for no more than what asyncpg
# does. Names: https://www.postgresql.org/docs/current/libpq-connect.html, held against libpq and asyncpg by a test.
_OF_LIBPQ_ALONE: dict[str, frozenset[str]] = {
    "channel_binding": frozenset({"disable", "prefer"}),
    "connect_timeout": frozenset(),
    "fallback_application_name": frozenset(),
    "gssdelegation": frozenset({"0"}),
    "gssencmode": frozenset({"disable", "prefer"}),
    "hostaddr": frozenset(),
    "keepalives": frozenset({"0"}),
    "keepalives_count": frozenset({"0"}),
    "keepalives_idle": frozenset({"0"}),
    "keepalives_interval": frozenset({"0"}),
    "load_balance_hosts": frozenset({"disable"}),
    "max_protocol_version": frozenset({"3.0", "3.2", "latest"}),
    "min_protocol_version": frozenset({"3.0"}),
    "oauth_client_id": frozenset(),
    "oauth_client_secret": frozenset(),
    "oauth_issuer": frozenset(),
    "oauth_scope": frozenset(),
    "replication": frozenset({"false", "off", "no", "0"}),
    "require_auth": frozenset(),
    "requirepeer": frozenset(),
    "scram_client_key": frozenset(),
    "scram_server_key": frozenset(),
    "ssl": frozenset(),
    "sslcertmode": frozenset({"allow"}),
    "sslcompression": frozenset({"0"}),
    "sslcrldir": frozenset(),
    "sslkeylogfile": frozenset(),
    "sslsni": frozenset({"1"}),
    "tcp_user_timeout": frozenset({"0"}),
}
_INSTEAD = {
    "connect_timeout": "create_pool takes a timeout",
    "fallback_application_name": "take application_name",
    "hostaddr": "take host",
    "ssl": "take sslmode",
}


def read_address(dsn: str) -> tuple[str, dict[str, Any]]:
    """An address as asyncpg takes it, and those of its parts that asyncpg takes as arguments.

    One that begins with `postgresql+asyncpg://` is read as SQLAlchemy reads it. Another one stays as it is, but for options of libpq's that
    ask for no more than what asyncpg does. Raises InvalidInputError for `dsn`, which holds no piece of a password.
    """
    if not isinstance(dsn, str):
        raise InvalidInputError("dsn", f"is {kind_of(dsn)}, not a text")
    if any("\ud800" <= character <= "\udfff" for character in dsn):
        raise InvalidInputError("dsn", "has characters that cannot be encoded")
    if other := _OTHER_DRIVERS.match(dsn):
        raise InvalidInputError("dsn", f"is for the driver {other[1]}: begin it with postgresql+asyncpg:// or postgresql://")
    if dsn.startswith("embedded:"):
        raise InvalidInputError("dsn", "embedded: is for the command line; in Python: with embedded_postgres(folder) as dsn")
    return _of_sqlalchemy(dsn) if re.match(r"postgres(ql)?\+asyncpg:", dsn) else (_of_asyncpg(dsn), {})


def _of_sqlalchemy(dsn: str) -> tuple[str, dict[str, Any]]:
    found = _OF_SQLALCHEMY.match(dsn)
    if found is None or found.end() < len(dsn):
        raise InvalidInputError("dsn", _FORM.replace("postgresql:", "postgresql+asyncpg:", 1))
    parts = found.groupdict(default="")
    options: dict[str, list[str]] = {}
    for name, value in parse_qsl(parts["query"]):
        options.setdefault("sslmode" if name == "ssl" else name, []).append(value)
    _refuse_at(parts["host"] + parts["ipv6"] + parts["port"] + parts["database"], parts["query"])
    if "," in parts["host"] + parts["port"]:
        raise InvalidInputError("dsn", "names several hosts in one place: SQLAlchemy takes them as ?host=one:5432&host=two:5432")

    hosts, ports = _hosts(options.pop("host", []), options.pop("port", []))
    for name, values in options.items():
        if len(values) > 1:
            raise InvalidInputError("dsn", f"names {name} more than once")
    once = _without_libpq({name: values[0] for name, values in options.items()})

    arguments: dict[str, Any] = {name: unquote(parts[name]) for name in ("user", "password", "database")}
    arguments["host"] = parts["ipv6"] or parts["host"]
    arguments["port"] = _port(parts["port"]) if parts["port"] else None
    if len(hosts) > 1:
        arguments |= {"host": hosts, "port": ports}
    elif hosts:
        arguments["host"] = hosts[0]
    if len(ports) == 1 and ports[0]:
        arguments["port"] = ports[0]
    # As SQLAlchemy has it, the first three win over what stands before the query; the others are no options of asyncpg's addresses.
    for name in ("user", "password", "database", "command_timeout", "servicefile"):
        if name in once:
            arguments[name] = once.pop(name)
    # SQLAlchemy's name for its own cache above asyncpg's; of both the caller means the same.
    if (size := once.pop("prepared_statement_cache_size", None)) is not None:
        if not re.fullmatch("[0-9]{1,9}", size):
            raise InvalidInputError("dsn", "has a prepared_statement_cache_size that is not a number")
        arguments["statement_cache_size"] = int(size)
    given = {name: value for name, value in arguments.items() if value not in ("", None)}
    return f"postgresql://?{urlencode(once)}" if once else "postgresql://", given


def _hosts(named: list[str], ports: list[str]) -> tuple[list[str], list[int | None]]:
    """The hosts of a query and their ports, in either of SQLAlchemy's forms: host=a:1&host=b:2, or host=a,b&port=1,2."""
    if len(named) > 1 or (named and not ports and re.fullmatch(r"[A-Za-z0-9.-]*:[0-9]*", named[0])):
        if ports:
            raise InvalidInputError("dsn", "names ports in two places: take ?host=one:5432&host=two:5432, or ?host=one,two&port=5432,5432")
        pairs = [host.partition(":") for host in named]
        hosts, texts = [host for host, _, _ in pairs], [port for _, _, port in pairs]
    else:
        hosts = [host for text in named for host in text.split(",")]
        texts = [port for text in ports for port in text.split(",")]
    numbers = [_port(text) if text else None for text in texts]
    if len(numbers) != len(hosts) and (len(numbers) > 1 or (len(hosts) > 1 and numbers)):
        raise InvalidInputError("dsn", "does not name as many ports as hosts")
    if len(hosts) > 1 and not (all(hosts) and numbers and all(numbers)):
        raise InvalidInputError("dsn", "names several hosts, and not the port of each")
    return hosts, numbers


def _of_asyncpg(dsn: str) -> str:
    read = _split(dsn)
    if read is None or read[0].scheme not in ("postgresql", "postgres"):
        raise InvalidInputError("dsn", _FORM)
    parts, options = read
    before, at, after = parts.netloc.partition("@")
    _refuse_at(after + parts.path + parts.fragment, parts.query)
    for host in hosts.split(",") if (hosts := after if at else before) else ():
        _check_host(host, escaped=True)
    for host in options.get("host", "/").split(","):
        _check_host(host, escaped=False)
    for port in options.get("port", "5432").split(","):
        _port(port)
    kept = _without_libpq(options)
    return dsn if len(kept) == len(options) else urlunsplit(parts._replace(query=urlencode(kept)))


def _split(dsn: str) -> tuple[SplitResult, dict[str, str]] | None:
    """The parts and the options of an address as asyncpg reads them, None where Python refuses them: its errors name what they refuse."""
    with suppress(ValueError):
        parts = urlsplit(dsn)
        options = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
        return parts, {name: values[-1] for name, values in options.items()}
    return None


def _check_host(host: str, *, escaped: bool) -> None:
    """Refuses a host of asyncpg's form whose port asyncpg would fail on."""
    if host.startswith("/"):
        return
    found = re.fullmatch(r"\[[^\]]+\](?::(?P<port>.*))?" if host.startswith("[") else r"[^:]*(?::(?P<port>.*))?", host)
    if found is None or not host:
        raise InvalidInputError("dsn", _FORM)
    port = found["port"] or ""
    if port:
        _port(unquote(port) if escaped else port)


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise InvalidInputError("dsn", _PORT)
    return int(text)


def _refuse_at(text: str, query: str) -> None:
    """Refuses an @ behind the one before the host: all that lies between them may be a piece of a password."""
    for field in query.split("&"):
        name, equals, value = field.partition("=")
        text += name if equals and name in _WITH_AT else name + value
    if "@" in text:
        raise InvalidInputError("dsn", _AT)


def _without_libpq(options: dict[str, str]) -> dict[str, str]:
    kept = {}
    for name, value in options.items():
        if name not in _OF_LIBPQ_ALONE:
            kept[name] = value
        elif value not in _OF_LIBPQ_ALONE[name]:
            cure = _INSTEAD.get(name, "leave it out")
            raise InvalidInputError("dsn", f"names {name}, which is an option of libpq's and none of asyncpg's: {cure}")
    return kept
