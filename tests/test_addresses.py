"""Addresses: SQLAlchemy's are read as SQLAlchemy reads them, and no error of any address has a piece of a password in it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from itertools import product
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
from asyncpg import connect_utils
from hypothesis import given
from hypothesis import strategies as st
from psycopg import pq
from sqlalchemy import make_url
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import ArgumentError

from flowstates import InvalidInputError, create_pool
from flowstates.database.addresses import _OF_LIBPQ_ALONE, read_address

pytestmark = pytest.mark.versions

PARTS = ("user", "password", "host", "port", "database")


def as_sqlalchemy(address: str) -> dict[str, Any]:
    _, arguments = PGDialect_asyncpg().create_connect_args(make_url(address))  # type: ignore[no-untyped-call]
    return {name: arguments[name] for name in PARTS if arguments.get(name)}


def as_ours(address: str) -> dict[str, Any]:
    _, arguments = read_address(address)
    return {name: arguments[name] for name in PARTS if name in arguments}


@pytest.mark.once  # an older SQLAlchemy reads addresses in other ways
@pytest.mark.parametrize(
    "rest",
    [
        "",
        "/db",
        "me@/db",
        "me:pa55@host/db",
        "me:pa55@host:7/db",
        "me:@host/db",
        ":pa55@host/db",
        "host",
        "host:7",
        "host:7/",
        "me@corp@host/db",
        "me%40corp:pa%2Fss%25@host/db",
        "me:pa/ss@host/db",
        "me:pa?ss@host/db",
        "me:pa#ss@host/db",
        "me:pa:ss@host/db",
        "me:pa[ss]@host/db",
        "me:pa ss+%2B@host/db",
        "me:pa%ss@host/db",
        "me:12/34?56#78@host:7/db",
        "me:é実@host/d%C3%A9b",
        "me@host/d%2Fb/c#d",
        "me:pw@[::1]/db",
        "me:pw@[::1]:7/db",
        "me:pw@[fe80::1%eth0]:7/db",
        "me:pw@/db?host=/run/postgresql",
        "me:pw@/db?host=/run/postgresql&port=7",
        "me:pw@/db?host=%2Frun%2Fpostgresql",
        "me:pw@ignored:7/db?host=/run/postgresql",
        "me:pw@/db?host=one:7",
        "me:pw@/db?host=one",
        "me:pw@/db?host=::1",
        "me:pw@/db?host=::1&port=7",
        "me:pw@/db?host=one:7&host=two:8",
        "me:pw@host/db?host=one:7&host=two:8&host=three:9",
        "me:pw@/db?host=one,two&port=7,8",
        "me:pw@/db?host=one&port=7",
        "me:pw@/db?host=/one,/two&port=7,8",
        "me:pw@host/db?port=7",
        "me:pw@host:7/db?port=8",
        "me:pw@host:7/db?host=&port=",
        "host/db?user=me@corp&password=p@ss%20w",
        "other:one@host/db?user=me&password=two&database=mine",
        # Refused by both.
        "me:pw@one:7,two:8/db",
        "me:pa@ss:word@host/db",
        "me:pw@host:seven/db",
        "me:pw@/db?host=one,two",
        "me:pw@/db?host=one:7&host=two",
        "me:pw@/db?host=one:7&host=two:8&port=9",
        "me:pw@/db?host=one,two&port=7",
        "me:pw@/db?host=one,two&port=7,",
        "me:pw@/db?host=one&port=7,8",
        "me:pw@/db?port=7,8",
        "me:pw@host/db?port=seven",
    ],
)
def test_an_address_of_sqlalchemy_is_read_as_sqlalchemy_reads_it(rest: str) -> None:
    address = f"postgresql+asyncpg://{rest}"
    try:
        expected = as_sqlalchemy(address)
    except (ArgumentError, ValueError):
        with pytest.raises(InvalidInputError, match=r"^dsn: "):
            read_address(address)
    else:
        assert as_ours(address) == expected


@pytest.mark.parametrize("driver", ["psycopg", "psycopg_async", "psycopg2", "psycopg2cffi", "pg8000"])
def test_an_address_for_another_driver_of_sqlalchemy_names_it(driver: str) -> None:
    make_url(f"postgresql+{driver}://me:pw@host/db").get_dialect()
    with pytest.raises(InvalidInputError, match=rf"^dsn: is for the driver {driver}: begin it with postgresql\+asyncpg://"):
        create_pool(f"postgresql+{driver}://me:hunter2@host/db")


@pytest.mark.parametrize("address", ["postgresql+hunter2://me@host/db", "postgresql+psycopg2hunter2:@host/db"])
def test_what_is_no_driver_of_sqlalchemy_may_be_a_password(address: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        create_pool(address)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("address", ["embedded:", "embedded:/some/folder"])
def test_an_address_of_the_command_line_names_what_python_has(address: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^dsn: .*with embedded_postgres\(folder\) as dsn$"):
        create_pool(address)


@pytest.mark.once  # an older SQLAlchemy reads addresses in other ways
@given(
    st.text(st.characters(exclude_characters="@", exclude_categories=["Cs"])),
    st.text(st.characters(exclude_characters="@?", exclude_categories=["Cs"])),
)
def test_any_password_is_read_as_sqlalchemy_reads_it(password: str, database: str) -> None:
    address = f"postgresql+asyncpg://me:{password}@host:7/{database}"
    assert as_ours(address) == as_sqlalchemy(address)


@pytest.mark.parametrize(
    ("rest", "cure"),
    [
        ("me:pa@ss@host/db", "%40"),
        ("me:pa@ss/word@host/db", "%40"),
        ("me:pa@ss?wo=rd@host/db", "%40"),
        ("me:pw@one,two/db", r"\?host=one:5432&host=two:5432"),
        ("me:pw@host:0/db", "1 to 65535"),
        ("me:pw@host:65536/db", "1 to 65535"),
        ("me:pw@/db?host=one:65536", "1 to 65535"),
        ("me:pw@[::1]x/db", "is not like"),
        ("me:pw@host/db?ssl=require&ssl=disable", "sslmode more than once"),
        ("me:pw@host/db?prepared_statement_cache_size=many", "prepared_statement_cache_size"),
        ("me:pw@host/db?channel_binding=require", "channel_binding"),
    ],
)
def test_what_sqlalchemy_would_misread_is_refused_with_a_cure(rest: str, cure: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"^dsn: .*{cure}"):
        read_address(f"postgresql+asyncpg://{rest}")


@pytest.mark.parametrize(
    ("options", "dsn", "arguments"),
    [
        ("ssl=require", {"sslmode": ["require"]}, {}),
        ("sslmode=require&sslrootcert=/a%20b", {"sslmode": ["require"], "sslrootcert": ["/a b"]}, {}),
        ("application_name=me@here&search_path=a,b", {"application_name": ["me@here"], "search_path": ["a,b"]}, {}),
        ("prepared_statement_cache_size=0", {}, {"statement_cache_size": 0}),
        ("command_timeout=1.5", {}, {"command_timeout": "1.5"}),
        ("channel_binding=prefer&sslmode=prefer", {"sslmode": ["prefer"]}, {}),
    ],
)
def test_the_options_of_an_address_of_sqlalchemy(options: str, dsn: dict[str, list[str]], arguments: dict[str, Any]) -> None:
    address, found = read_address(f"postgresql+asyncpg://me@/?{options}")
    assert address.startswith("postgresql://")
    assert parse_qs(urlsplit(address).query) == dsn
    assert found == {"user": "me"} | arguments


# Addresses of asyncpg's


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://",
        "postgres:///db",
        "postgresql:db",
        "postgresql://me@/db",
        "postgresql://me:pa:ss%2F,;&=+@host:7/db",
        "postgresql://one:7,two:8,[::1]:9,[fe80::1]/db?sslmode=prefer",
        "postgresql://%2Frun%2Fpostgresql:7/db",
        "postgresql://me@/db?host=/run/a&port=7&user=a@b",
        "postgresql://me@/db?host=/one,two:7,[::1]:8",
        "postgresql://me@/db?host=one,two&port=7,8",
        "postgresql://host/db?options=-c%20search_path%3Da&application_name=a@b#c",
    ],
)
def test_an_address_of_asyncpg_stays_as_it_is(address: str) -> None:
    assert read_address(address) == (address, {})


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host=localhost password=hunter2",
        "me:hunter2@host/db",
        "mysql://me:hunter2@host/db",
        "postgresql+psycopg://me:hunter2@host/db",
        "postgresql://me:hunter2",
        "postgresql://me@one,,two/db",
        "postgresql://me@::1/db",
        "postgresql://me@[::1]x/db",
        "postgresql://me@host:65536/db",
        "postgresql://me@/db?host=[::1",
        "postgresql://me@/db?host=one:x",
        "postgresql://me@/db?port=5432,",
        "postgresql://me@/db?sslmode",
        "postgresql://me:\udcff@host/db",
        "postgresql+asyncpg://me:\udcff@host/db",
        "postgresql+asyncpg:/me@host/db",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^dsn: ") as caught:
        create_pool(address)
    assert all("hunter2" not in text for text in texts_of(caught.value))


# Options


def known_to_asyncpg() -> set[str]:
    return set(re.findall(r"if '(\w+)' in query", inspect.getsource(connect_utils)))


def test_each_option_of_libpq_is_known_to_asyncpg_to_the_server_or_here() -> None:
    of_libpq = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    assert len(of_libpq) > 30
    of_the_server = {"application_name", "client_encoding", "options"}
    others = of_libpq - known_to_asyncpg() - of_the_server
    assert others <= _OF_LIBPQ_ALONE.keys() | {"service"}  # which asyncpg 0.30 does not know
    assert not _OF_LIBPQ_ALONE.keys() & (known_to_asyncpg() | of_the_server)


@pytest.mark.parametrize(
    ("scheme", "name"),
    [*(("postgresql", name) for name in _OF_LIBPQ_ALONE), *(("postgresql+asyncpg", name) for name in _OF_LIBPQ_ALONE if name != "ssl")],
)
def test_an_option_of_libpq_alone_is_refused_by_name_or_asks_for_nothing(scheme: str, name: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"^dsn: names {name}, "):
        create_pool(f"{scheme}://me@host/db?sslmode=prefer&{name}=other")
    for value in _OF_LIBPQ_ALONE[name]:
        address, _ = read_address(f"{scheme}://me@host/db?sslmode=prefer&{name}={value}&application_name=a%26b")
        assert parse_qs(urlsplit(address).query) == {"sslmode": ["prefer"], "application_name": ["a&b"]}


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+asyncpg"])
async def test_a_dropped_option_is_not_sent(dsn: str, scheme: str) -> None:
    address = dsn.replace("postgresql:", f"{scheme}:") + ("&" if "?" in dsn else "?") + "channel_binding=prefer&application_name=a%26b"
    async with create_pool(address) as pool:
        assert await pool.fetchval("show application_name") == "a&b"


# No piece of a password in an error


def chain(error: BaseException | None) -> Iterator[BaseException]:
    if error is not None:
        yield error
        yield from chain(error.__cause__)
        yield from chain(error.__context__)


def texts_of(error: BaseException) -> Iterator[str]:
    for one in chain(error):
        yield from (str(one), repr(one), repr(vars(one)), repr(one.args))


SPECIAL = "/?#[]@:%&=,+; \\\"'|<>`{}^~!$*()-_.\t\u2100"


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+asyncpg"])
@pytest.mark.parametrize(("one", "two"), [("34567", "45678"), ("hunt", "treasure")])
async def test_no_piece_of_a_password_is_in_an_error(scheme: str, one: str, two: str) -> None:
    """A user's name that is also a host, so that a piece of the password can become that host's port; nothing listens on any of them."""
    for first, second in product(SPECIAL, ["", *"/?#@:[&="]):
        for password in (f"{one}{first}{second}{two}", f"{one}{first}x={two}{second}"):
            with pytest.raises((InvalidInputError, OSError)) as caught:
                await create_pool(f"{scheme}://localhost:{password}@127.0.0.1:1/db")
            for text in texts_of(caught.value):
                assert one not in text, (password, text)
                assert two not in text, (password, text)


async def test_a_password_of_any_characters_is_used(own_dsn: str) -> None:
    """By a role that the server asks for a password, where it does ask."""
    password = "pa/ss?w#o:r[d]% &="
    async with create_pool(own_dsn) as pool:
        role = f"role_{uuid4().hex[:12]}"
        await pool.execute(f"create role {role} login password '{password}'")
        try:
            parts = urlsplit(own_dsn)
            host = parts.netloc.rpartition("@")[2]
            address = f"postgresql+asyncpg://{role}:{password.replace('%', '%25')}@{host}{parts.path}?{parts.query}"
            assert read_address(address)[1]["password"] == password
            async with create_pool(address) as own:
                assert await own.fetchval("select current_user") == role
        finally:
            await pool.execute(f"drop role {role}")
