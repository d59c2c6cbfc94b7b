"""The command line as a process: help, completion, Ctrl-C and readers that go away."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from uuid import uuid4

import pytest

from flowstates.cli.app import app
from tests.terminals import Terminal
from tests.test_cli import ROOT, Done, execute, plain_environment, process, run, url

pytestmark = pytest.mark.once

__all__ = ["plain_environment", "url"]  # fixtures

COMMANDS = (
    "demo", "migrate", "check", "create", "list", "runs", "timeline", "durations", "counts", "show", "delete", "import", "export", "prune", "tail",
    "consumers", "serve",
)  # fmt: skip


# Help


def test_help_has_no_names_of_pythons_types() -> None:
    assert {command.name for command in app.registered_commands if command.name} <= {*COMMANDS}
    types = re.compile(r"\bUUID\b|FileBinaryRead|INTEGER|list\[|timedelta|datetime|\bstr\b|\bint\b|moment_of|id_of|_time")
    for command in COMMANDS:
        done = run(command, "--help")
        assert (done.code, types.findall(done.out)) == (0, [])
    for command in ("list", "runs"):
        assert "-n, --limit N" in run(command, "--help").out
    assert "a long transaction commits late" in " ".join(run("list", "--help").out.split())


def test_help_says_what_it_ends_with() -> None:
    assert "130 Ctrl-C; 141 a reader of its output that went away" in " ".join(process("--help").out.split())


# Completion

SCRIPTS = {"bash": "complete -o default -F", "zsh": "#compdef flowstates", "fish": "complete --command flowstates"}


@pytest.mark.parametrize(("shell", "part"), SCRIPTS.items())
def test_each_shell_has_its_script(shell: str, part: str) -> None:
    done = process(_FLOWSTATES_COMPLETE=f"source_{shell}")
    assert (done.code, done.err) == (0, "")
    assert part in done.out
    assert "_FLOWSTATES_COMPLETE=complete_" + shell in done.out


def test_the_shell_that_it_runs_in_is_known() -> None:
    command = f"{sys.executable} -m flowstates.cli --show-completion; true"  # a bash that ends with one command becomes that command
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "complete -o default -F _flowstates_completion flowstates" in done.stdout


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("flowstates li", ["list"]),
        ("flowstates list --type CRA", ["CRASHED"]),
        ("flowstates list --type cra", ["crashed"]),
        ("flowstates prune --type FAILED,CRA", ["FAILED,CRASHED"]),
        ("flowstates create 0195 cancelli", ["cancelling"]),
        ("flowstates runs --long", ["--longer-than"]),
        ("flowstates delete --y", ["--yes"]),
        ("flowstates export --skip-", ["--skip-unreadable"]),
        ("flowstates counts --layout p", ["prefect"]),
    ],
)
def test_words_are_completed(words: str, completed: list[str]) -> None:
    done = process(_FLOWSTATES_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
    assert (done.code, done.err) == (0, "")
    assert done.out.split() == completed


# Ctrl-C


@pytest.mark.parametrize("start", [["-m", "flowstates"], ["-m", "flowstates.cli"], ["-Werror", "-mflowstates"], ["flowstates"]])
@pytest.mark.parametrize("module", ["asyncpg", "pydantic", "typer", "flowstates.cli.app"])
def test_ctrl_c_while_modules_load_is_no_traceback(start: list[str], module: str, tmp_path: Path) -> None:
    """The module signals when it is loaded, as a Ctrl-C would."""
    (tmp_path / "sitecustomize.py").write_text(f"""
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(10_000):
                pass

sys.meta_path.insert(0, Finder())
""")
    script = tmp_path / "flowstates"
    script.write_text("import sys\nfrom flowstates.cli import main\nsys.exit(main())\n")  # as pip makes it
    command = [str(script)] if start == ["flowstates"] else start
    done = subprocess.run(
        [sys.executable, *command, "list"], env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}, cwd="/", capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_program_of_somebody_else_keeps_its_traceback() -> None:
    code = "import flowstates, sys; assert sys.excepthook is sys.__excepthook__; raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" in done.stderr


def test_ctrl_c_is_130(own_dsn: str) -> None:
    execute(own_dsn, "create table flow_run_state (id int)")
    code = f"""
import signal, threading
import flowstates
from flowstates.cli import main
async def wait(connection, **_):
    # To the main thread, as a terminal's would wake it: another thread may be given a signal of the process, and nobody wakes up then.
    threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, {int(signal.SIGINT)})).start()
    await connection.fetchval("select pg_sleep(60)")
flowstates.check = wait
main()
"""
    done = process("check", "--database-url", own_dsn, code=code)
    assert (done.code, done.out, done.err.strip()) == (130, "", "")


def test_ctrl_c_again_and_again_is_no_traceback(own_dsn: str) -> None:
    """While a statement runs: the first ends it, and the others come while the process ends."""
    execute(own_dsn, "create table flow_run_state (id int)")
    code = """
import flowstates
from flowstates.cli import main
async def wait(connection, **_):
    print("waiting", flush=True)
    await connection.fetchval("select pg_sleep(60)")
flowstates.check = wait
main()
"""
    command = [sys.executable, "-c", code, "check", "--database-url", own_dsn]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        assert waiting.stderr is not None
        assert waiting.stdout.readline() == "waiting\n"
        ended = threading.Event()

        def press() -> None:
            while not ended.wait(0.02):
                waiting.send_signal(signal.SIGINT)

        pressing = threading.Thread(target=press)
        pressing.start()
        code_ = waiting.wait(60)
        ended.set()
        pressing.join()
        assert (code_, "Traceback" in waiting.stderr.read()) in ((130, False), (-signal.SIGINT, False))


def test_ctrl_c_at_a_terminal_that_is_to_be_imported(own_dsn: str) -> None:
    run("migrate", "--database-url", own_dsn)
    with Terminal("import", "-", "--database-url", own_dsn) as terminal:
        terminal.until("━")  # the bar
        assert terminal.interrupt() in (130, -signal.SIGINT)  # of a second one, which comes when Python is ending
        assert "Traceback" not in terminal.text


# Output that goes nowhere


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_reader_that_goes_away_ends_it_quietly(options: tuple[str, ...], url: str) -> None:
    run_id = uuid4()
    run("create", run_id, "RUNNING", "--data", json.dumps("x" * 100_000))
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "flowstates.cli", "list", str(run_id), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")  # as of a program that SIGPIPE ends


OUTPUTS = (
    "list", "list RUN", "show ID", "show ID --json", "create RUN RUNNING", "create RUN RUNNING --json", "export", "runs", "timeline RUN",
    "timeline RUN --svg -", "durations", "counts", "migrate", "migrate --sql", "check", "prune --older-than 1d --dry-run", "demo",
    "list RUN --follow", "--help", "list --help", "--version",
)  # fmt: skip


@pytest.mark.parametrize("arguments", OUTPUTS)
def test_output_that_cannot_be_written_is_3(arguments: str, url: str) -> None:
    (state,) = run("create", uuid4(), "RUNNING", "--json").records
    command = [{"RUN": state["flow_run_id"], "ID": state["id"]}.get(word, word) for word in arguments.split()]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "flowstates.cli", *command],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (3, "error: cannot write the output: No space left on device\n")


def test_closed_output_is_3(url: str) -> None:
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "flowstates.cli", "export"]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (3, "error: cannot write the output: standard output is closed\n")


# Errors that nobody reads, and no input


def in_shell(redirection: str, *arguments: object) -> Done:
    """A command whose streams the shell has set."""
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "flowstates.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>&- <&-"])
def test_what_only_stderr_is_told_does_not_stop_the_work(redirection: str, own_dsn: str, tmp_path: Path) -> None:
    database = ("--database-url", own_dsn)
    run("migrate", *database)
    run_id = uuid4()
    (state,) = run("create", run_id, "COMPLETED", "--timestamp", "2020-01-31T12:00:00Z", "--json", *database).records
    for _ in range(2):
        run("create", uuid4(), "COMPLETED", "--timestamp", "2020-01-31T12:00:00Z", *database)
    exported = in_shell(redirection, "export", *database)
    assert (exported.code, exported.err, len(exported.records)) == (0, "", 3)
    done = in_shell(redirection, "list", *database, "-n", 1)
    assert (done.code, "COMPLETED" in done.out) == (0, True)
    assert in_shell(redirection, "delete", state["id"], *database).code == 2
    assert in_shell(redirection, "prune", "--older-than", "1d", *database).code == 2
    done = in_shell(redirection, "prune", "--older-than", "1d", "--yes", "--batch-size", 1, *database)
    assert (done.code, done.out.startswith("deleted: 3 states of 3 runs")) == (0, True)
    (tmp_path / "file").write_text(exported.out + "no state\n")
    assert in_shell(redirection, "import", "--skip", tmp_path / "file", *database) == Done(1, "created 3, present before 0, refused 1\n", "")
    assert in_shell(redirection, "show", uuid4(), *database) == Done(1, "", "")


@pytest.mark.parametrize(("words", "field"), [("delete ID", "--yes"), ("prune --older-than 1d", "--yes"), ("import -", "FILE")])
def test_closed_input_is_bad_input(words: str, field: str, url: str) -> None:
    (state,) = run("create", uuid4(), "RUNNING", "--json").records
    done = in_shell("<&-", *words.replace("ID", state["id"]).split())
    assert (done.code, done.out, done.err.splitlines()[0].startswith(f"error: {field}: ")) == (2, "", True)
    assert "Traceback" not in done.err


@pytest.mark.parametrize("command", ["export", "list --json -n 1000", "list", "runs"])
def test_a_pipe_into_head_is_quiet(command: str, url: str, tmp_path: Path) -> None:
    for _ in range(3):
        run("create", uuid4(), "RUNNING", "--data", '"' + "x" * 100_000 + '"', "--message", "y" * 150)
    errors = tmp_path / "errors"
    piped = f"{sys.executable} -m flowstates.cli {command} 2>{errors} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONUNBUFFERED": ""})
    assert done.stdout == "141\n"
    assert errors.read_text() == ""
