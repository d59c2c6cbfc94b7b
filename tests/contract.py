"""What a query file promises, held against the server, the method that runs it and the record that it fills."""

from __future__ import annotations

import re
from types import NoneType
from typing import Any, get_args
from uuid import UUID

import asyncpg
import psycopg

from flowstates import FlowRunState, FlowRunStateAnalytics, FlowRunStateFeed, FlowRunStateRepository, FlowRunStateRetention
from flowstates.engine.rows import to_states
from flowstates.errors import UnreadableRowError

SIGNATURE = re.compile(
    r"-- (?P<name>[a-z_]+(\.[a-z_]+)?)\((?P<parameters>[a-z_]+ [a-z0-9\[\]]+(?:, [a-z_]+ [a-z0-9\[\]]+)*)?\)"
    r" -> (?P<result>(?:optional|one|many) [A-Za-z]+|values? [a-z0-9]+|affected)"
)
COLUMNS = {"FlowRunState": list(FlowRunState.model_fields), "StoredState": [*FlowRunState.model_fields, "agrees"]}
_TYPES = {"id": "uuid", "flow_run_id": "uuid", "result_artifact_id": "uuid"} | dict.fromkeys(("created", "updated", "timestamp"), "timestamptz")
_SAMPLES = (
    {"name": "text", "message": "text", "state_details": "{}", "data": "{}"}
    | dict.fromkeys(("id", "flow_run_id", "result_artifact_id"), str(UUID(int=1)))
    | dict.fromkeys(("created", "updated", "timestamp"), '"2024-03-05T12:00:00.5"')
)
# A time as JSON shows it in UTC; on our own table `updated` is left out where it equals `created`.
_JSON = r"to_json\((?:nullif\(((?:\w+\.)?updated), (?:\w+\.)?created\)|([a-z_.]+)) at time zone 'UTC'\)"
RUNNERS = (FlowRunStateRepository, FlowRunStateAnalytics, FlowRunStateRetention, FlowRunStateFeed)


def method_of(name: str) -> str:
    """The method that runs a file: the file's name up to a dot."""
    return name.partition(".")[0]


def without_method(names: set[str]) -> set[str]:
    """Names of files that no method runs."""
    return {name for name in names if not any(hasattr(runner, method_of(name)) for runner in RUNNERS)}


async def problems(dsn: str, name: str, file: str, text: str) -> list[str]:
    """What of a query file, and of the text that is sent of it, does not hold on the database of `dsn`, in words; [] if all does."""
    signature = SIGNATURE.fullmatch(file.partition("\n")[0])
    if signature is None or signature["name"] != name:
        return [f"line 1 is not a signature of {name}"]
    if not re.match(r"-- [A-Z]", file.partition("\n")[2]):
        return ["line 2 is not prose"]
    body = re.sub(r"--.*", "", file)
    found = []
    if body.count(";") != 1 or not file.endswith(";\n"):
        found.append("not one statement with one final semicolon")
    if re.search(r"select\s+\*", body):
        found.append("select *")
    if not re.match(rf"/\* {re.escape(name)} \*/ [a-z]", text):
        found.append("what is sent does not begin with its name and a keyword")
    if "/* slot: state */" in text:
        found.append("a slot that is not filled")
    connection = await asyncpg.connect(dsn)
    try:
        statement = await connection.prepare(text)
        types = [type_.name for type_ in statement.get_parameters()]
        columns = [(column.name, column.type.name) for column in statement.get_attributes()]
        labels = [row[0] for row in await connection.fetch("select unnest(enum_range(null::state_type))::text")]
    except asyncpg.PostgresError as error:
        return [*found, f"the server refuses it: {error}"]
    finally:
        await connection.close()
    parameters = [item.split() for item in (signature["parameters"] or "").split(", ") if item]
    if [type_ for _, type_ in parameters] != types:
        found.append(f"parameters are {types}")
    shape, _, wanted = signature["result"].partition(" ")
    if shape == "affected":
        return found if not columns else [*found, f"returns {columns}"]
    if wanted == "row":
        return found
    if shape in ("value", "values"):
        return found if [type_ for _, type_ in columns] == [wanted] else [*found, f"returns {columns}"]
    return found + _record_problems(dsn, text, wanted, columns, labels)


def _record_problems(dsn: str, text: str, wanted: str, columns: list[tuple[str, str]], labels: list[str]) -> list[str]:
    if wanted not in COLUMNS:
        return [f"there is no record {wanted}"]
    fields = FlowRunState.model_fields
    if [name for name, _ in columns] != COLUMNS[wanted]:
        return [f"columns are {[name for name, _ in columns]}"]
    if found := [f"{name} is {type_} and not text" for name, type_ in columns if type_ != "text"]:
        return found
    for label in labels:
        try:
            (state,) = to_states([[_SAMPLES.get(name, label) for name in fields]])
            FlowRunState.model_validate(dict(state))
        except UnreadableRowError as error:
            found.append(f"with the label {label} the record refuses {error.field}: {error.message}")
    for (name, _), (origin, type_, not_null) in zip(columns, _origins(dsn, text), strict=True):
        if name not in fields:
            continue
        if type_ == "timestamptz" and not re.search(rf"{_JSON}::text as {name}\b", text):
            found.append(f"{name} is not as JSON shows a time in UTC")
        if origin is None:
            if name != "data":  # by a rule on Prefect's tables
                found.append(f"{name} comes from no column")
        elif (origin, type_) != (name, _TYPES.get(name, type_)):
            found.append(f"{name} comes from {origin}, which is {type_}")
        if not not_null and fields[name].annotation is not Any and NoneType not in get_args(fields[name].annotation):
            found.append(f"{name} may be null, and the record's field may not")
    return found


def _origins(dsn: str, text: str) -> list[tuple[str | None, str | None, bool]]:
    """For each result column the table's column that it shows, its type, and whether it is never null. What hides it is taken off first: casts, and a
    function that gives rows of the table."""
    text = re.sub(r"append_flow_run_state\(.*?\) as state", "flow_run_state as state", text, flags=re.DOTALL)
    plain = re.sub(rf"(?:{_JSON})?::text as (\w+)", r"\1\2 as \3", text)
    with psycopg.connect(dsn) as connection:
        connection.pgconn.prepare(b"", plain.encode())
        described = connection.pgconn.describe_prepared(b"")
        places = [(described.ftable(index), described.ftablecol(index)) for index in range(described.nfields)]
        found = connection.execute(
            "select attrelid, attnum, attname, typname, attnotnull from pg_attribute join pg_type on pg_type.oid = atttypid where attrelid = any(%s)",
            [[table for table, _ in places]],
        )
        columns = {(table, number): (name, type_, not_null) for table, number, name, type_, not_null in found}
    return [columns.get(place, (None, None, False)) for place in places]
