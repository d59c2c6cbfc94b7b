"""A filter to a clause and its values."""

# Not with annotations from __future__, which are texts: Pydantic would compile each of them at every import.
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from pydantic import BeforeValidator, StrictBool
from pypika import Criterion, Field, Parameter, Query, Table

from flowstates.errors import InvalidInputError
from flowstates.records import InputType, StateType, TypeName
from flowstates.values import Input, InputText, InputUUID, Layout, UtcDatetime, a_time, kind_of

_STATE, _RUN = Table("flow_run_state").as_("state"), Table("flow_run")
_ASKED = Table("flow_run_state").as_("asked")
_QUOTE = '"'

FilterTime = Annotated[UtcDatetime, BeforeValidator(a_time)]


class FlowRunStateFilter(Input):
    """Which states are meant: those that fit all that is filter. `since <= timestamp < until`; `terminal` is of the type.

    With `current=True` only the current state of each run is meant, and all other fields speak of that one: types RUNNING, until an hour ago, finds
    the runs that are RUNNING for an hour or more. On the layout `prefect` it is the state that `flow_run.state_id` names: a run whose current state
    was deleted has none.

    On the layout `prefect` a time range is found by `flow_run.state_timestamp`, as Prefect has no index on the states' time. Where clocks differ that
    may be a little older than the run's newest state, so a day of slack is taken: a row that is more than a day behind hides its run's last states
    from `since`. A row without a time, as runs have that only the scheduler has touched, hides nothing.

    An empty list finds nothing, and so does what contradicts itself.
    """

    flow_run_ids: tuple[InputUUID, ...] | None = None
    ids: tuple[InputUUID, ...] | None = None
    types: tuple[InputType, ...] | None = None
    names: tuple[InputText, ...] | None = None
    since: FilterTime | None = None
    until: FilterTime | None = None
    terminal: StrictBool | None = None
    current: StrictBool = False

    def asked_types(self) -> list[StateType]:
        """The types that `types` and `terminal` let through, in the order of the enum."""
        asked = StateType if self.types is None else self.types
        return [type_ for type_ in StateType if type_ in asked and self.terminal in (None, type_.is_terminal)]

    if TYPE_CHECKING:  # a checker would else take what a field holds for all that it is made from

        def __init__(
            self,
            *,
            flow_run_ids: Iterable[UUID | str] | None = None,
            ids: Iterable[UUID | str] | None = None,
            types: Iterable[StateType | TypeName] | None = None,
            names: Iterable[str] | None = None,
            since: datetime | str | None = None,
            until: datetime | str | None = None,
            terminal: bool | None = None,
            current: bool = False,
        ) -> None: ...


def checked_filter(filter: FlowRunStateFilter | None) -> FlowRunStateFilter | None:
    """The filter, checked again if it was changed since; InvalidInputError for what is neither a filter nor None."""
    if filter is None:
        return None
    if not isinstance(filter, FlowRunStateFilter):
        raise InvalidInputError("filter", f"is {kind_of(filter)}, not a FlowRunStateFilter")
    try:
        return filter.checked()
    except InvalidInputError as error:
        raise InvalidInputError(f"filter.{error.field}", error.message) from None


SLACK = timedelta(days=1)
"""By how much the time in Prefect's `flow_run` may be behind that of the run's newest state, where clocks differ; as in columns/prefect/moved.sql."""


class _Clause:
    """Conditions whose values go into placeholders, numbered from `first` on. PyPika sees placeholders only."""

    def __init__(self, first: int, layout: Layout) -> None:
        self._first = first
        self._layout = layout
        self.values: list[str | Sequence[str]] = []
        self.conditions: list[Criterion] = []

    def value(self, value: str | Sequence[str], form: str) -> Parameter:
        self.values.append(value)
        return Parameter(form.format(f"${self._first + len(self.values) - 1}"))

    def time(self, time: datetime) -> Parameter:
        return self.value(time.isoformat(), "{}::text::timestamptz")

    def is_one_of(self, column: Field, values: Sequence[object] | None, type_: str) -> None:
        if values is None:
            return
        if type_ == "state_type" and len(values) == 1:
            # Of one type an index gives the order too.
            self.conditions.append(column == self.value(str(values[0]), "{}::text::state_type"))
        elif type_ == "text":
            self.conditions.append(column == self.value([str(value) for value in values], "any ({}::text[])"))
        elif type_ == "uuid":
            self.conditions.append(column == self.ids(values))
        else:
            self.conditions.append(column == self.value(array_of(values), f"any ({{}}::text::{type_}[])"))

    def ids(self, values: Iterable[object]) -> Parameter:
        # Citus asks the servers of some runs alone if it knows the ids when it plans, which takes immutable functions; a cast of the text is none.
        array = "string_to_array(btrim({}::text, '{{}}'), ',')::uuid[]" if self._layout == "citus" else "{}::text::uuid[]"
        return self.value(array_of(values), f"any ({array})")

    def is_between(self, column: Field, since: datetime | None, until: datetime | None) -> None:
        if since is not None:
            self.conditions.append(column >= self.time(since))
        if until is not None:
            self.conditions.append(column < self.time(until))

    def may_be_between(self, since: datetime | None, until: datetime | None) -> Criterion | None:
        """What a row of Prefect's flow_run says where its current state is in a window; it may say nothing. None where all of them say so."""
        bounds = _Clause(self._first + len(self.values), self._layout)
        bounds.is_between(_RUN.state_timestamp, _moved(since, -SLACK), _moved(until, SLACK))
        self.values += bounds.values
        return Criterion.all(bounds.conditions) | _RUN.state_timestamp.isnull() if bounds.conditions else None

    def sql(self) -> str:
        if not self.conditions:
            return "true"
        return Criterion.all(self.conditions).get_sql(with_namespace=True, quote_char=_QUOTE)  # type: ignore[call-arg]  # PyPika's types lack them


def to_clause(filter: FlowRunStateFilter, first: int, layout: Layout, *, stops: bool = False) -> tuple[str, list[str | Sequence[str]]]:
    """The clause on `state`, or on `flow_run` and its current state, and the values of its placeholders, which are numbered from `first` on.

    `stops` says that the query reads in the order of runs and stops when it has enough.
    """
    clause = _Clause(first, layout)
    if not filter.current:
        _of_states(filter, clause, layout, stops)
    elif layout == "prefect":
        _of_prefects_current(filter, clause)
    else:
        _of_current(filter, clause)
    return clause.sql(), clause.values


def runs_clause(flow_run_ids: Sequence[UUID] | None, first: int, layout: Layout) -> tuple[str, list[str | Sequence[str]]]:
    """The clause on `flow_run` that chooses runs; all of them without ids."""
    clause = _Clause(first, layout)
    clause.is_one_of(_RUN.id, flow_run_ids, "uuid")
    return clause.sql(), clause.values


def _of_states(filter: FlowRunStateFilter, clause: _Clause, layout: Layout, stops: bool) -> None:
    clause.is_one_of(_STATE.flow_run_id, filter.flow_run_ids, "uuid")
    clause.is_one_of(_STATE.id, filter.ids, "uuid")
    if filter.types is not None or filter.terminal is not None:
        clause.is_one_of(_STATE.type, filter.asked_types(), "state_type")
    clause.is_one_of(_STATE.name, filter.names, "text")
    clause.is_between(_STATE.timestamp, filter.since, filter.until)
    if layout == "prefect" and filter.since is not None and filter.flow_run_ids is None and filter.ids is None:
        # Prefect has no index on the states' time. A run that has a state since then has moved since then.
        moved = clause.may_be_between(filter.since, None)
        if moved is not None:
            runs = Query.from_(_RUN).select(_RUN.id).where(moved)
            # For an array every plan takes the index on histories, also the one for any time. What may stop early is better left to the planner.
            array = Parameter(f"any (array({runs.get_sql(quote_char=_QUOTE)}))")
            clause.conditions.append(_STATE.flow_run_id.isin(runs) if stops else _STATE.flow_run_id == array)


def _of_current(filter: FlowRunStateFilter, clause: _Clause) -> None:
    clause.is_one_of(_RUN.id, filter.flow_run_ids, "uuid")
    if filter.ids is not None:
        clause.is_one_of(_RUN.state_id, filter.ids, "uuid")
        # No index leads from a state to the row that points at it, but the state says its run.
        runs = Query.from_(_ASKED).select(_ASKED.flow_run_id).where(_ASKED.id == clause.ids(filter.ids))
        clause.conditions.append(_RUN.id.isin(runs))
    # The index on times begins with the type, so a time is asked of all types.
    if filter.types is not None or filter.terminal is not None or filter.since is not None or filter.until is not None:
        clause.is_one_of(_RUN.state_type, filter.asked_types(), "state_type")
    clause.is_one_of(_RUN.state_name, filter.names, "text")
    clause.is_between(_RUN.state_timestamp, filter.since, filter.until)


def _of_prefects_current(filter: FlowRunStateFilter, clause: _Clause) -> None:
    """On the state, and on the run's row too for the sake of its indexes."""
    clause.conditions.append(_RUN.state_id.notnull())
    clause.is_one_of(_RUN.id, filter.flow_run_ids, "uuid")
    clause.is_one_of(_STATE.id, filter.ids, "uuid")
    if filter.types is not None or filter.terminal is not None:
        for column in (_RUN.state_type, _STATE.type):
            clause.is_one_of(column, filter.asked_types(), "state_type")
    for column in (_RUN.state_name, _STATE.name):
        clause.is_one_of(column, filter.names, "text")
    clause.is_between(_STATE.timestamp, filter.since, filter.until)
    moved = clause.may_be_between(filter.since, filter.until)
    if moved is not None:
        clause.conditions.append(moved)


def _moved(time: datetime | None, by: timedelta) -> datetime | None:
    try:
        return None if time is None else time + by
    except OverflowError:
        return None  # before or behind all that there can be


def array_of(values: Iterable[object]) -> str:
    """Ids or types as one text in the server's form of an array: it costs the client less than an array of texts, and the planner, who does
    not look through a cast of an array, knows what is in it."""
    return "{" + ",".join(map(str, values)) + "}"
