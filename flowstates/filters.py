"""A filter to a clause and its values."""

# Not with annotations from __future__, which are texts: Pydantic would compile each of them at every import.
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import BeforeValidator
from pypika import Criterion, Parameter, Table

from flowstates.records import StateType
from flowstates.values import Input, InputText, InputUUID, UtcDatetime, a_time

FilterTime = Annotated[UtcDatetime, BeforeValidator(a_time)]


class FlowRunStateFilter(Input):
    """Which states are meant: those that fit all that is filter. `since <= timestamp < until`; `terminal` is of the type.

    An empty list finds nothing, and so does what contradicts itself.
    """

    flow_run_ids: tuple[InputUUID, ...] | None = None
    ids: tuple[InputUUID, ...] | None = None
    types: tuple[StateType, ...] | None = None
    names: tuple[InputText, ...] | None = None
    since: FilterTime | None = None
    until: FilterTime | None = None
    terminal: bool | None = None


def to_clause(filter: FlowRunStateFilter, first: int) -> tuple[str, list[str | Sequence[str]]]:
    """The clause, and the values of its placeholders, which are numbered from `first` on. PyPika sees placeholders only."""
    values: list[str | Sequence[str]] = []
    table = Table("flow_run_state")

    def placeholder(value: str | Sequence[str], form: str) -> Parameter:
        values.append(value)
        return Parameter(form.format(f"${first + len(values) - 1}"))

    conditions: list[Criterion] = []
    for column, ids in ((table.flow_run_id, filter.flow_run_ids), (table.id, filter.ids)):
        if ids is not None:
            conditions.append(column == placeholder(array_of(ids), "any ({}::text::uuid[])"))
    if filter.types is not None:
        conditions.append(table.type == placeholder(array_of(filter.types), "any ({}::text::state_type[])"))
    if filter.names is not None:
        conditions.append(table.name == placeholder(filter.names, "any ({}::text[])"))
    if filter.since is not None:
        conditions.append(table.timestamp >= placeholder(filter.since.isoformat(), "{}::text::timestamptz"))
    if filter.until is not None:
        conditions.append(table.timestamp < placeholder(filter.until.isoformat(), "{}::text::timestamptz"))
    if filter.terminal is not None:
        types = [type_.value for type_ in StateType if type_.is_terminal is filter.terminal]
        conditions.append(table.type == placeholder(array_of(types), "any ({}::text::state_type[])"))
    if not conditions:
        return "true", values
    return Criterion.all(conditions).get_sql(with_namespace=True, quote_char='"'), values  # type: ignore[call-arg]  # PyPika's types lack them


def array_of(values: Iterable[object]) -> str:
    """Ids or types as one text in the server's form of an array: it costs the client less than an array of texts, and the planner, who does
    not look through a cast of an array, knows what is in it."""
    return "{" + ",".join(map(str, values)) + "}"
