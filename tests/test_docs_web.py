"""What docs/web.md shows is run here, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from flowstates.cli.app import app as command_line
from tests.conftest import Pool
from tests.examples import BLOCK, names_of

pytestmark = pytest.mark.once

PAGE = Path(__file__).parent.parent / "docs" / "web.md"
TEXT = PAGE.read_text()
(SERVICE,) = [code for language, code in BLOCK.findall(TEXT) if language == "python"]
COMMAND = re.search(r"```sh\n(.*)\n```", TEXT)


def test_the_service(dsn: str, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setenv("STATES_PASSWORD", "sesame")
    routes = [
        re.sub(r"\{id\}|=$", lambda found: found[0] if found[0] == "{id}" else "=", path) for path in re.findall(r"^\| GET (\S+)", TEXT, re.MULTILINE)
    ]
    assert len(routes) == 6
    id = "5e0b7a4c-9d31-4f6e-8a2b-c7d915e03f86"
    with TestClient(names_of(SERVICE)["app"]) as client:
        for route in routes:
            path = "/states" + route.replace("{id}", id) + (id if route.endswith("=") else "")
            assert client.get(path).status_code == 401, path
            assert client.get(path, auth=("anyone", "simsim")).status_code == 401, path
            found = client.get(path, auth=("anyone", "sesame"))
            assert found.status_code == (404 if route in ("/flow_run_states/{id}", "/runs/{id}") else 200), path


@pytest.mark.once
def test_the_command_is_there() -> None:
    assert COMMAND is not None
    program, command, option, port = COMMAND[1].split()
    assert (program, option, port) == ("flowstates", "--port", "8088")
    assert command in [found.name for found in command_line.registered_commands]


@pytest.mark.once
def test_the_pictures_are_there_and_small() -> None:
    pictures = re.findall(r"\]\((web-\w+-\w+\.png)\)", TEXT)
    assert sorted(pictures) == [f"web-{page}-{scheme}.png" for page in ("run", "runs") for scheme in ("dark", "light")]
    for picture in pictures:
        content = (PAGE.parent / picture).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 200_000
