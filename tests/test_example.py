"""The service under examples: its own tests, and what `make example` starts."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest

pytestmark = pytest.mark.versions

ROOT = Path(__file__).parent.parent
SERVICE = ROOT / "examples" / "service"


def test_its_own_tests_pass(flowstates_server: str) -> None:
    # Not those of the worker of xdist that this is.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["FLOWSTATES_TEST_POSTGRES"] = flowstates_server
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=SERVICE, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ passed in ", done.stdout, re.MULTILINE)


@pytest.fixture
def started() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "error", "-m", "service"]
    with subprocess.Popen(command, cwd=SERVICE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_it_starts_shows_its_jobs_and_ends_at_ctrl_c(started: subprocess.Popen[str]) -> None:
    recipe = re.search(r"^example: .*\n(.+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    assert recipe[1].endswith('/bin/python" -m service')
    assert started.stdout is not None
    lines = [started.stdout.readline() for _ in range(4)]
    said = re.fullmatch(r"runs +(http://127\.0\.0\.1:\d+/)states/  \(any user, password (\S+)\)\n", lines[0])
    assert said is not None, (lines, started.communicate(timeout=60))
    address, password = said.groups()

    def get(path: str, password: str = password) -> str:
        # The test's own machine is asked, whatever proxy the environment names.
        request = urllib.request.Request(address + path, headers={"Authorization": f"Basic {base64.b64encode(f'any:{password}'.encode()).decode()}"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return str(answer.read().decode())

    with pytest.raises(HTTPError) as refused:
        get("states/", "wrong")
    refused.value.close()
    assert refused.value.code == 401
    assert "<table" in get("states/")
    end = time.monotonic() + 120
    while '"north":2' not in get("usage"):
        assert time.monotonic() < end
        time.sleep(0.1)
    spans = Path(lines[2].split()[-1])
    assert spans.exists()
    assert lines[3] == "Ctrl-C ends it\n"
    started.send_signal(signal.SIGINT)
    assert started.communicate(timeout=120) == ("", "")
    assert started.returncode == 0
    assert not spans.parent.exists()
