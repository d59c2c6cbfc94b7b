"""What the tables of each layout are made of, in the words in which the server's catalog tells it."""

from __future__ import annotations

from typing import NamedTuple

from flowstates.values import Layout


class Index(NamedTuple):
    """An index that is to be there, whatever its name: its key, whether it is unique, and the columns that it holds besides."""

    key: str
    is_unique: bool = False
    included: str = ""


class Table(NamedTuple):
    """A table: its columns and what fills them, its indexes, check constraints by name, and foreign keys by column."""

    columns: dict[str, str]
    indexes: tuple[Index, ...]
    checks: dict[str, str] = {}  # noqa: RUF012 (nobody changes it)
    foreign_keys: dict[str, str] = {}  # noqa: RUF012
    distributed_by: str | None = None


_TIME = "timestamp with time zone"
_STATE = {
    "id": "uuid not null",
    "created": f"{_TIME} not null",
    "updated": f"{_TIME} not null",
    "type": "state_type not null",
    "timestamp": f"{_TIME} not null",
    "name": "character varying not null",
    "message": "character varying",
    "state_details": "jsonb not null",
    "data": "jsonb",
    "flow_run_id": "uuid not null",
    "result_artifact_id": "uuid",
}
_PLACE = {"transaction": "xid8 not null", "timestamp": f"{_TIME} not null", "id": "uuid not null"}
_OWN_STATE = Table(
    columns={
        **_STATE,
        "id": "uuid not null default gen_random_uuid()",
        "created": f"{_TIME} not null default CURRENT_TIMESTAMP",
        "updated": f"{_TIME} not null generated always as (created) stored",
        "timestamp": f"{_TIME} not null default clock_timestamp()",
        "state_details": "jsonb not null default '{}'::jsonb",
    },
    indexes=(Index("flow_run_id, timestamp", is_unique=True, included="type"), Index("timestamp, id", included="type")),
    checks={
        "ck_flow_run_state__name": "CHECK (((name)::text <> ''::text))",
        "ck_flow_run_state__state_details": "CHECK ((jsonb_typeof(state_details) = 'object'::text))",
        "ck_flow_run_state__timestamp": f"CHECK (((timestamp >= '0001-01-02 00:00:00+00'::{_TIME})"
        f" AND (timestamp < '9999-12-31 00:00:00+00'::{_TIME})))",
    },
)
_OWN_RUN = Table(
    columns={
        "id": "uuid not null",
        "state_id": "uuid not null",
        "state_type": "state_type not null",
        "state_name": "character varying not null",
        "state_timestamp": f"{_TIME} not null",
    },
    indexes=(Index("id", is_unique=True), Index("state_type, state_timestamp, id")),
)
LAYOUTS: dict[Layout, dict[str, Table]] = {
    "flowstates": {
        "flow_run_state": _OWN_STATE._replace(
            columns={**_OWN_STATE.columns, "transaction": "xid8 not null default pg_current_xact_id()"},
            indexes=(Index("id", is_unique=True), *_OWN_STATE.indexes, Index("transaction, timestamp, id")),
        ),
        "flow_run": _OWN_RUN._replace(columns={**_OWN_RUN.columns, "transaction": "xid8 not null"}),
        "flowstates_consumer": Table(
            columns={
                "name": "text not null",
                **_PLACE,
                "known": "text not null default (pg_current_snapshot())::text",
                "updated": f"{_TIME} not null default CURRENT_TIMESTAMP",
            },
            indexes=(Index("name", is_unique=True),),
            checks={"ck_flowstates_consumer__name": "CHECK ((name <> ''::text))"},
        ),
        "flowstates_pruned": Table(
            columns={**_PLACE, "pruned_by": "xid8 not null default pg_current_xact_id()"},
            indexes=(Index("transaction, timestamp, id, pruned_by", is_unique=True),),
        ),
    },
    "prefect": {
        "flow_run_state": Table(
            columns=_STATE,
            indexes=(Index("id", is_unique=True), Index("flow_run_id, timestamp", is_unique=True)),
            foreign_keys={"flow_run_id": "flow_run (id) on delete cascade"},
        ),
        "flow_run": Table(
            columns={
                "id": "uuid not null",
                "state_id": "uuid",
                "state_type": "state_type",
                "state_name": "character varying",
                "state_timestamp": _TIME,
                "end_time": _TIME,
            },
            indexes=(Index("id", is_unique=True),),
            foreign_keys={"state_id": "flow_run_state (id) on delete set null"},
        ),
        "artifact": Table(columns={"id": "uuid not null", "data": "json"}, indexes=(Index("id", is_unique=True),)),
    },
    "citus": {
        "flow_run_state": _OWN_STATE._replace(
            indexes=(Index("flow_run_id, id", is_unique=True), Index("id"), *_OWN_STATE.indexes), distributed_by="flow_run_id"
        ),
        "flow_run": _OWN_RUN._replace(distributed_by="id"),
    },
}
