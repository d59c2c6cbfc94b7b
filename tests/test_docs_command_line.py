"""What docs/command-line.md shows is run here, as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from flowstates.cli.app import app
from tests.examples import ROOT, blocks_of

pytestmark = pytest.mark.once

PAGE = (ROOT / "docs" / "command-line.md").read_text()
(COMMANDS,) = blocks_of("docs/command-line.md", "sh")


def test_the_commands(own_dsn: str, tmp_path: Path) -> None:
    environment = os.environ | {"FLOWSTATES_DATABASE_URL": own_dsn, "PYTHONPATH": str(ROOT)}
    assert {line.split()[1] for line in COMMANDS.splitlines()} >= {"migrate", "check", "create", "list", "show", "delete", "import", "export"}
    for line in COMMANDS.splitlines():
        command = re.sub(r"^flowstates ", f"{shlex.quote(sys.executable)} -m flowstates.cli ", line)
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (line, done.stderr)


@pytest.mark.once
def test_each_command_is_named() -> None:
    names = {command.name for command in app.registered_commands if command.name}
    assert {name for name in names if not re.search(rf"flowstates {name}\b|`{name}`", PAGE)} == set()
