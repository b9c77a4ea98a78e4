"""The native session as a process, against a runner on a real socket; where its jobs are not recorded, it says so."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_runner import (
    HEAD,
    KEY,
    FakeRunner,
    complete,
    end_of_session,
    fake_runner,
    log,
    outcome_of,
    record,
    session_of,
)
from support.waiting import wait_until


@pytest.fixture
def runner() -> Iterator[FakeRunner]:
    with fake_runner() as runner:
        yield runner


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").write_text("")
    return root


def environment(runner: FakeRunner, **more: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_CORE_"))
    }
    kept.pop("CI", None)
    return kept | {"REMOTE_CI_URL": runner.url, "REMOTE_CI_API_KEY": KEY, **more}


def run(
    runner: FakeRunner,
    folder: Path,
    *args: str,
    program: tuple[str, ...] = ("pytest", "--remote-ci"),
    **more: str,
) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", *program]
    return subprocess.run(
        [*start, *args],
        cwd=folder,
        env=environment(runner, **more),
        capture_output=True,
        text=True,
        timeout=60,
    )


def whole(root: Path, code: int = 0, **more: Any) -> list[dict[str, Any]]:
    """A recorded session of one test."""
    outcome = outcome_of("test_a", "failed" if code else "passed")
    return [*session_of(str(root), "test_a", **more), *outcome[1:], *end_of_session(code), complete(code)]


RECORDER = record("session", "recorder", protocol=1, cwd="/x")
TEXT = [log("1 failed\n"), complete(1)]

EXPLAINED = [
    pytest.param(TEXT, "the runner records no sessions (it is older than this client)", id="an old runner"),
    pytest.param(
        [
            RECORDER,
            record("session", "unavailable", reason="no module 'x'"),
            log("1 failed\n", "stdout"),
            TEXT[1],
        ],
        "the session could not be recorded: no module 'x'",
        id="no recorder",
    ),
    pytest.param(
        [RECORDER, record("session", "unavailable", reason="pytest 6.2.5 is older than 7.0"), *TEXT],
        "the session could not be recorded: pytest 6.2.5 is older than 7.0",
        id="an old pytest",
    ),
    pytest.param(
        [{**RECORDER, "protocol": 3}, *TEXT],
        "the runner's records are of version 3, newer than this client's 2: upgrade it",
        id="newer records",
    ),
    pytest.param(
        [{**RECORDER, "protocol": 0}, *TEXT],
        "the runner's records are of version 0, older than this client's 2: upgrade the runner",
        id="older records",
    ),
]


@pytest.mark.parametrize(("script", "why"), EXPLAINED)
def test_a_run_that_cannot_be_native_says_why_in_one_line_and_shows_the_text(
    runner: FakeRunner, project: Path, script: list[dict[str, Any]], why: str
) -> None:
    runner.script = script
    answer = run(runner, project)
    assert (answer.stdout, answer.returncode) == ("1 failed\n", 1)
    own = [line for line in answer.stderr.splitlines() if not line.startswith("Job ID: ")]
    assert own == [f"remote-ci: {why}; showing pytest's text instead"]


@pytest.mark.parametrize("way", ["attach", "replay"])
def test_a_job_without_records_is_shown_as_text(runner: FakeRunner, project: Path, way: str) -> None:
    job = runner.add_job(*TEXT)
    job.status = "completed"
    answer = run(runner, project, f"--remote-ci-{way}={job.id}")
    assert (answer.stdout, answer.returncode) == ("1 failed\n", 1)
    assert (
        answer.stderr == "remote-ci: this job was submitted without records; showing pytest's text instead\n"
    )


def test_a_pytest_here_that_is_too_old_says_so(runner: FakeRunner, project: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    packages = ("pytest==6.2.5", "pluggy==1.0.0", "py", "toml", "attrs", "iniconfig", "packaging")
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "-q",
        "--target",
        str(old),
        "--no-deps",
        *packages,
    ]
    subprocess.run(command, check=True, timeout=120)
    runner.script = whole(project, 1)
    runner.script[-1:] = TEXT
    plugin = ("pytest", "-p", "pytest_remote_ci.plugin", "--remote-ci")
    answer = run(runner, project, program=plugin, PYTHONPATH=str(old), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert (answer.stdout, answer.returncode) == ("1 failed\n", 1), answer.stderr
    assert (
        "remote-ci: pytest 6.2.5 here is older than 7.0; showing the remote pytest's text instead\n"
        in answer.stderr
    )


def test_results_are_those_of_this_pytest(runner: FakeRunner, project: Path) -> None:
    runner.script = whole(project, 1)
    answer = run(runner, project, "--junitxml=here.xml", "-rf")
    assert answer.returncode == 1
    assert "platform remote\nrootdir: " in answer.stdout
    assert "FAILED test_it.py::test_a" in answer.stdout
    assert "test_it" in (project / "here.xml").read_text()


def test_output_before_the_first_record_is_no_reason_to_show_text(runner: FakeRunner, project: Path) -> None:
    runner.script = [log("from a .pth file\n", "stdout"), *whole(project)]
    answer = run(runner, project)
    assert "1 passed" in answer.stdout
    assert "text instead" not in answer.stderr


@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        (("-q",), 0, None),
        ((), 0, "; only in the job: pytest-xyz"),
        ((), 0, "pytest plugins only here: "),
        (("-q",), 1, "(the job installs the project's dependencies)"),
    ],
)
def test_plugins_that_may_explain_a_result_are_named_once(
    runner: FakeRunner, project: Path, args: tuple[str, ...], code: int, line: str | None
) -> None:
    runner.script = whole(project, code, plugins=("pytest_xyz",))
    answer = run(runner, project, *args)
    assert answer.returncode == code
    remarks = [text for text in answer.stderr.splitlines() if "pytest plugins" in text]
    assert len(remarks) == (line is not None)
    if line is not None:
        assert line in remarks[0]
        assert "remote-ci," not in remarks[0]
        assert "only here: " in remarks[0]
        assert "pytest-timeout" in remarks[0]
        assert "hypothesis" not in remarks[0]


STRICT = """[pytest]
addopts = --strict-config --strict-markers --flavour=mint
required_plugins = pytest-that-is-missing>=3
filterwarnings = error::missing_library.MissingWarning
setting_of_a_missing_plugin = auto
"""
#: What pytest checks before it loads plugins such as ours.
CHECKED_FIRST = """minversion = 99.0
addopts = -p plugin_of_the_project --strict-config --strict-markers --flavour=mint
filterwarnings =
    error
    ignore::missing_library.MissingWarning
"""

#: How a session is started that runs elsewhere: the command, and the environment beside it.
WAYS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "typed": (("pytest", "--remote-ci"), {}),
    "in a variable": (("pytest",), {"PYTEST_ADDOPTS": "--remote-ci"}),
    "by our own command": (("pytest_remote_ci.cli.main", "pytest"), {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_the_project_is_needed_here(runner: FakeRunner, project: Path, way: str) -> None:
    (project / "pytest.ini").write_text(STRICT)
    (project / "conftest.py").write_text("import library_that_is_missing_here\n")
    runner.script = whole(project)
    program, variables = WAYS[way]
    answer = run(runner, project, "-x", program=program, **variables)
    assert answer.returncode == 0, answer.stderr
    assert "1 passed" in answer.stdout
    (job,) = runner.jobs.values()
    assert job.options is not None
    assert job.options["args"] == ["-x"]


def test_our_own_command_skips_what_pytest_checks_before_plugins(runner: FakeRunner, project: Path) -> None:
    lines = [line for line in STRICT.splitlines(keepends=True) if not line.startswith(("addopts", "filter"))]
    (project / "pytest.ini").write_text("".join(lines) + CHECKED_FIRST)
    runner.script = whole(project)
    answer = run(runner, project, "-p", "another_one", program=("pytest_remote_ci.cli.main", "pytest"))
    assert answer.returncode == 0, answer.stderr
    assert "1 passed" in answer.stdout
    (job,) = runner.jobs.values()
    assert job.options is not None
    assert job.options["args"] == ["-p", "another_one"]


SUGGESTION = "remote-ci: tests on a runner do not need this here; use `remote-ci pytest ARGS`\n"

#: Ways to have this plugin loaded before pytest finds what it lacks.
LOADED_FIRST = (
    "import sys, pytest; sys.exit(pytest.main(sys.argv[1:], plugins=['pytest_remote_ci.plugin']))",
    "import sys, pytest; sys.exit(pytest.main(['-p', 'remote_ci', *sys.argv[1:]]))",
)


@pytest.mark.parametrize(
    ("code", "line", "plugins"),
    [
        (LOADED_FIRST[0], "minversion = 99.0", ""),
        (LOADED_FIRST[0], "addopts = -p plugin_of_the_project", ""),
        (LOADED_FIRST[1], "addopts = -p remote_ci -p plugin_of_the_project", ""),
        (LOADED_FIRST[1], "", "plugin_of_the_project"),
    ],
)
def test_where_this_plugin_is_loaded_the_error_names_our_own_command(
    runner: FakeRunner, project: Path, code: str, line: str, plugins: str
) -> None:
    (project / "pytest.ini").write_text(f"[pytest]\n{line}\n")
    command = [sys.executable, "-c", code, "-p", "no:cacheprovider", "--remote-ci"]
    answer = subprocess.run(
        command,
        cwd=project,
        env=environment(runner, PYTEST_PLUGINS=plugins),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode != 0
    assert "99.0" in answer.stderr or "plugin_of_the_project" in answer.stderr
    assert answer.stderr.count(SUGGESTION) == 1, answer.stderr
    assert not runner.jobs


@pytest.mark.parametrize("option", ["--remote-ci", ""])
def test_a_session_without_such_an_error_suggests_nothing(
    runner: FakeRunner, project: Path, option: str
) -> None:
    (project / "test_it.py").write_text("def test_it(): raise ImportError(\"Error importing plugin 'x'\")\n")
    runner.script = whole(project, 1)
    answer = run(runner, project, *([option] if option else []), program=("pytest",))
    assert answer.returncode == 1, answer.stderr
    assert "remote-ci pytest" not in answer.stdout + answer.stderr


@pytest.mark.parametrize("line", ["minversion = 99.0", "addopts = -p plugin_of_the_project"])
def test_a_session_here_is_as_strict_as_ever(runner: FakeRunner, project: Path, line: str) -> None:
    (project / "pytest.ini").write_text(f"[pytest]\n{line}\n")
    (project / "test_it.py").write_text("def test_it(): pass\n")
    answer = run(runner, project, program=("pytest",))
    assert answer.returncode == 4
    assert line.split()[-1] in answer.stderr


@pytest.fixture
def begun(runner: FakeRunner, project: Path) -> Iterator[subprocess.Popen[str]]:
    """A session whose second test runs."""
    runner.script = [
        *session_of(str(project), "test_a", "test_b"),
        *outcome_of("test_a")[1:],
        *outcome_of("test_b")[:1],
    ]
    runner.ends_cancelled = False
    command = [sys.executable, "-m", "pytest", "--remote-ci", "-v"]
    environ = environment(runner, PYTHONUNBUFFERED="1")
    with subprocess.Popen(
        command,
        cwd=project,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        while "test_a PASSED" not in (line := process.stdout.readline()):
            assert line
        yield process
        process.kill()


def test_ctrl_c_cancels_the_job_and_shows_what_there_is(
    runner: FakeRunner, begun: subprocess.Popen[str]
) -> None:
    begun.send_signal(signal.SIGINT)
    (job,) = runner.jobs.values()
    wait_until(lambda: job.cancelled, what="the cancel request")
    interrupt = {
        "name": "KeyboardInterrupt",
        "module": "builtins",
        "message": "",
        "code": None,
        "at": ["test_it.py", 2],
    }
    job.events += [record("session", "interrupt", **interrupt), *end_of_session(2)]
    job.events.append(complete(None, "cancelled", cancelled=True, reason="cancelled by user"))
    out, err = begun.communicate(timeout=30)
    assert begun.returncode == 2
    assert "KeyboardInterrupt" in out
    assert "1 passed" in out
    assert f"Cancelling job {job.id} … (press Ctrl-C again to leave at once)\n" in err
    assert err.endswith(f"\nJob {job.id} was cancelled.\n")
    assert "Traceback" not in err


def test_a_second_ctrl_c_leaves_at_once(runner: FakeRunner, begun: subprocess.Popen[str]) -> None:
    begun.send_signal(signal.SIGINT)
    (job,) = runner.jobs.values()
    wait_until(lambda: job.cancelled, what="the cancel request")
    begun.send_signal(signal.SIGINT)
    out, err = begun.communicate(timeout=30)
    assert begun.returncode == 2, out + err
    assert "1 passed" in out
    assert "Traceback" not in err
    assert "was cancelled" not in err, "nobody waited for that"


def test_ctrl_c_while_the_last_test_ends_does_not_claim_that_the_job_was_cancelled(
    runner: FakeRunner, begun: subprocess.Popen[str]
) -> None:
    begun.send_signal(signal.SIGINT)
    (job,) = runner.jobs.values()
    wait_until(lambda: job.cancelled, what="the cancel request")
    job.events += [*outcome_of("test_b")[1:], *end_of_session(0), complete(0)]
    out, err = begun.communicate(timeout=30)
    assert "2 passed" in out
    assert "was cancelled" not in err


def test_a_job_whose_time_is_up_gives_no_verdict(runner: FakeRunner, begun: subprocess.Popen[str]) -> None:
    (job,) = runner.jobs.values()
    job.events += [*outcome_of("test_b")[1:], *end_of_session(2)]
    job.events.append(complete(None, "failed", reason="timed out after 2 s"))
    _, err = begun.communicate(timeout=30)
    assert begun.returncode == 70
    assert "remote-ci: the runner could give no verdict: timed out after 2 s\n" in err


def test_a_plugin_here_that_ends_the_session_cancels_the_job(runner: FakeRunner, project: Path) -> None:
    (project / "stopping.py").write_text(
        "def pytest_runtest_logfinish(nodeid):\n    raise RuntimeError('mine')\n"
    )
    runner.script = [
        *session_of(str(project), "test_a", "test_b"),
        *outcome_of("test_a")[1:],
        *outcome_of("test_b")[:1],
    ]
    answer = run(runner, project, "-p", "stopping", PYTHONPATH=str(project))
    assert answer.returncode == 3, answer.stderr
    assert "RuntimeError: mine" in answer.stdout
    assert next(iter(runner.jobs.values())).cancelled


@pytest.mark.parametrize(
    "nonsense",
    [
        record("report", "report"),
        record("report", "report", d={"nodeid": 3}),
        record("collected", "tree", nodes=[[0]], items=[[1, 2]]),
        record("started", "started", id="test_a.py::test_a", location=[]),
        record("section", "terminal", target="tw", method="write"),
        record("session", "header"),
        record("warning", "warning", message="x"),
    ],
    ids=lambda event: str(event["t"]) + f" of {len(event)}",
)
def test_records_that_make_no_sense_end_the_session_without_a_traceback(
    runner: FakeRunner, project: Path, nonsense: dict[str, Any]
) -> None:
    script = whole(project)
    runner.script = [*script[:4], nonsense, *script[4:]]
    answer = run(runner, project)
    text = answer.stdout + answer.stderr
    assert "INTERNALERROR" not in text
    assert "Traceback" not in text
    assert answer.returncode == 70, text
    assert f"a record of kind {nonsense['t']!r} is invalid; use --remote-ci-text" in text


def test_what_a_plugin_here_raises_is_not_blamed_on_the_records(runner: FakeRunner, project: Path) -> None:
    (project / "breaking.py").write_text(
        "def pytest_runtest_logreport(report):\n    raise KeyError('mine')\n"
    )
    runner.script = whole(project)
    answer = run(runner, project, "-p", "breaking", PYTHONPATH=str(project))
    assert "KeyError: 'mine'" in answer.stdout + answer.stderr
    assert "is invalid" not in answer.stdout + answer.stderr


def seen_on(terminal: int) -> list[str]:
    """The lines that a terminal shows in the end: overwritten and erased text is gone."""
    data = b""
    with contextlib.suppress(OSError):  # the program has ended
        while piece := os.read(terminal, 65536):
            data += piece
    lines, column = [""], 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|.", data.decode(), re.DOTALL):
        if part == "\n":
            lines.append("")
        elif part == "\r":
            column = 0
        elif part == "\x1b[K":
            lines[-1] = lines[-1][:column]
        elif not part.startswith("\x1b"):
            lines[-1] = lines[-1][:column].ljust(column) + part + lines[-1][column + 1 :]
            column += 1
    return lines


def test_a_line_about_the_connection_leaves_the_results_on_the_terminal(
    runner: FakeRunner, project: Path
) -> None:
    begun = [*session_of(str(project), "test_a", "test_b"), *outcome_of("test_a")[1:]]
    runner.script = [*begun, *outcome_of("test_b"), *end_of_session(0), complete(0)]
    frames = [f"id: {number}\ndata: {json.dumps(event)}\n\n" for number, event in enumerate(begun, 1)]
    runner.cut_streams_after = [len(HEAD) + sum(map(len, frames))]
    ours, theirs = pty.openpty()
    environ = environment(runner, TERM="xterm", COLUMNS="100")
    command = [sys.executable, "-m", "pytest", "--remote-ci", "-p", "no:cacheprovider"]
    with subprocess.Popen(command, cwd=project, env=environ, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        lines = seen_on(ours)
        assert process.wait(60) == 0
    os.close(ours)
    assert runner.streams == 2
    results = [line.split() for line in lines if line.startswith("test_it.py")]
    assert sum(words[1].count(".") for words in results) == 2, lines
