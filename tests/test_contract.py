from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest

from flowstates import migrate
from flowstates.engine import queries
from flowstates.values import Layout
from tests.contract import RUNNERS, method_of, problems, without_method
from tests.model import LAYOUTS

pytestmark = pytest.mark.server

SQL = Path(str(queries.root()))
FILES = [
    (layout, name) for layout in LAYOUTS for name in sorted({path.stem for folder in ("queries", layout) for path in (SQL / folder).glob("*.sql")})
]
READ_FILE = (SQL / "queries/read_flow_run_state.sql").read_text()
READ = queries.query("read_flow_run_state", "flowstates")


@pytest.mark.parametrize(("layout", "name"), FILES)
async def test_file_keeps_its_contract(layout_dsns: dict[Layout, str], layout: Layout, name: str) -> None:
    file = next(path for folder in (layout, "queries") if (path := SQL / folder / f"{name}.sql").is_file())
    assert await problems(layout_dsns[layout], name, file.read_text(), queries.query(name, layout)) == []


def test_every_file_is_run_by_a_method_and_every_method_has_a_file() -> None:
    names = {name for _, name in FILES}
    assert without_method(names) == set()
    methods = {name for runner in RUNNERS for name in vars(runner) if not name.startswith("_")}
    assert methods - {method_of(name) for name in names} == {"follow"}  # which reads pages


def test_a_file_that_no_method_runs_is_found() -> None:
    assert without_method({"read_flow_run_state", "read_flow_run_stats"}) == {"read_flow_run_stats"}


def test_every_text_of_a_folder_is_named_in_the_package() -> None:
    source = "".join(path.read_text() for path in (SQL.parent / "flowstates").rglob("*.py"))
    folders = [folder for folder in SQL.iterdir() if folder.is_dir() and folder.name not in ("migrations", "columns")]
    named = {path.stem for folder in folders for path in folder.glob("*.sql")}
    assert {name for name in named if f'"{name}"' not in source and f'"{method_of(name)}.' not in source} == set()


def test_a_prefect_text_has_the_signature_of_the_common_one() -> None:
    for path in (SQL / "prefect").glob("*.sql"):
        if path.name.startswith(("prune.", "read_page.", "now.")):
            continue  # another walk, from another kind of position
        assert path.read_text().splitlines()[0] == (SQL / "queries" / path.name).read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("fault", "file", "text"),
    [
        ("columns are", READ_FILE, READ.replace("state.data::text as data,", "")),
        ("columns are", READ_FILE, READ.replace("as created", "as updated")),
        ("id is uuid", READ_FILE, READ.replace("select state.id::text as id", "select state.id")),
        ("created is not as JSON shows a time", READ_FILE, READ.replace("to_json(state.created at time zone 'UTC')", "state.created")),
        ("created comes from no column", READ_FILE, READ.replace("to_json(state.created at time zone 'UTC')", "to_json(state.created)")),
        (
            "timestamp comes from no column",
            READ_FILE,
            READ.replace("(state.timestamp at", "(nullif(state.timestamp, state.created) at"),
        ),
        ("parameters are", READ_FILE.replace("(flow_run_state_id text)", "(flow_run_state_id uuid)"), READ),
        ("parameters are", READ_FILE, READ.replace("$1::text::uuid", "$1::uuid")),
        ("name may be null", READ_FILE, READ.replace("state.name::text as name", "state.message::text as name")),
        ("id comes from name", READ_FILE, READ.replace("select state.id::text", "select state.name::text")),
        ("created comes from updated", READ_FILE, READ.replace("to_json(state.created at", "to_json(state.updated at")),
        ("message comes from no column", READ_FILE, READ.replace("state.message::text", "upper(state.message)::text")),
        ("line 1", READ_FILE.replace("-> optional", "-> perhaps"), READ),
        ("line 1", READ_FILE.replace("-- read_flow_run_state(", "-- read_flow_run_stat("), READ),
        ("line 2", re.sub(r"\n-- .*", "", READ_FILE, count=1), READ),
        ("the server refuses it", READ_FILE, READ.replace("state.result_artifact_id::text", "state.artifact_id::text")),
        ("there is no record", READ_FILE.replace("FlowRunState", "FlowState"), READ),
        ("one statement", READ_FILE + "select 1;\n", READ),
        ("select *", READ_FILE.replace("select /*", "select *, /*"), READ),
        ("begin with its name", READ_FILE, READ.replace("*/ select", "*/\nselect")),
        ("a slot that is not filled", READ_FILE, READ_FILE.replace("-- ", "/* read_flow_run_state */ -- ")),
    ],
)
async def test_a_planted_fault_is_found(dsn: str, fault: str, file: str, text: str) -> None:
    assert (file, text) != (READ_FILE, READ)
    assert fault in " ".join(await problems(dsn, "read_flow_run_state", file, text))


async def test_a_new_enum_label_is_found(own_dsn: str) -> None:
    connection = await asyncpg.connect(own_dsn)
    await migrate(connection)
    await connection.execute("alter type state_type add value 'SUSPENDED'")
    await connection.close()
    assert "label SUSPENDED the record refuses type" in " ".join(await problems(own_dsn, "read_flow_run_state", READ_FILE, READ))


@pytest.mark.parametrize("path", sorted((SQL / "testing").glob("*.sql")), ids=lambda path: path.stem)
async def test_testing_file_is_one_that_the_server_takes(own_dsn: str, path: Path) -> None:
    text = path.read_text()
    assert re.match(r"-- [A-Z].*\.\n[a-z]", text)
    connection = await asyncpg.connect(own_dsn)
    if path.stem == "prefect_tables":
        await connection.execute(text)
    else:
        assert re.sub(r"--.*", "", text).count(";") == 1
        await connection.prepare(text)
    await connection.close()


@pytest.mark.parametrize("path", sorted((SQL / "catalog").glob("*.sql")), ids=lambda path: path.stem)
async def test_catalog_file_is_one_that_the_server_takes(dsn: str, path: Path) -> None:
    text = path.read_text()
    assert re.match(rf"-- {path.stem}\(.*\) -> (one|many|optional) row|-- {path.stem}\(.*\) -> affected", text)
    connection = await asyncpg.connect(dsn)
    if path.stem == "wait_for_place" and connection.get_server_version().major < 19:
        with pytest.raises(asyncpg.PostgresSyntaxError):
            await connection.prepare(text)
        await connection.close()
        return
    statement = await connection.prepare(text)
    given = re.findall(r"\w+ (\w+)", re.sub(r"\.\.\.", "", text[text.index("(") + 1 : text.index(")")]))
    assert [parameter.name for parameter in statement.get_parameters()] == given
    await connection.close()
