"""Nothing that a runner says steers the developer's terminal: each field of each answer, in each command.

A runner of our own answers with texts that hold every kind of character that a terminal obeys. What the commands write
may hold text, line feeds, tabs, and, in logs of jobs, colours.
"""

from __future__ import annotations

import copy
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.fake_runner import (
    KEY,
    TIME,
    FakeRunner,
    Request,
    complete,
    end_of_session,
    fake_runner,
    log,
    outcome_of,
    record,
    session_of,
)

from pytest_remote_ci.cli import main
from pytest_remote_ci.wire.control_characters import escaped_json, holds_any

#: One text of each class; the letters beside them show that the rest of a text survives.
CLASSES = {
    "NUL": "\x00",
    "bell": "\x07",
    "backspace": "\x08",
    "vertical tab": "\x0b",
    "form feed": "\x0c",
    "carriage return": "a\rb",
    "shift out": "\x0e",
    "shift in": "\x0f",
    "cancel": "\x18",
    "escape alone": "\x1b",
    "clear": "\x1b[2J",
    "cursor": "\x1b[1A\x1b[K",
    "report": "\x1b[6n\x1b[c",
    "alternate screen": "\x1b[?1049h",
    "title": "\x1b]0;t\x07",
    "clipboard": "\x1b]52;c;eA==\x07",
    "link": "\x1b]8;;http://x\x1b\\l\x1b]8;;\x1b\\",
    "DCS": "\x1bP$q\x1b\\",
    "APC": "\x1b_G\x1b\\",
    "PM": "\x1b^x\x1b\\",
    "SOS": "\x1bXx\x1b\\",
    "charset": "\x1b(0\x1b)B",
    "reset": "\x1bc",
    "save": "\x1b7",
    "DEL": "\x7f",
    "NEL": "\x85",
    "C1 CSI": "\x9b2J",
    "C1 OSC": "\x9d52;c;eA==\x9c",
    "C1 DCS": "\x90q\x9c",
    "C1 APC": "\x9fx\x9c",
    "C1 PM": "\x9ex\x9c",
    "C1 SOS": "\x98x\x9c",
    "separators": "\u2028\u2029",
    **{
        f"bidi {code:04x}": chr(code)
        for code in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    },
}
ALL = "".join(f"<{text}>" for text in CLASSES.values())
COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
JOB = "11111111-1111-4111-8111-111111111111"
RUN = "22222222-2222-4222-8222-222222222222"

SUMMARY = {
    "job_id": JOB,
    "status": "completed",
    "success": True,
    "start_time": TIME,
    "end_time": TIME,
    "exit_code": 0,
    "reason": "because",
    "phase": "finished",
    "submitted_at": TIME,
    "queue_position": None,
    "name": "mine",
    "counts": {"passed": 2},
    "user": "me",
}
RUN_JOB = {
    "name": "tests",
    "definition": "tests",
    "stage": "one",
    "kind": "script",
    "skipped": False,
    "status": "completed",
    "success": False,
    "job_id": JOB,
    "reused": False,
    "allow_failure": False,
    "phase": "testing",
    "retry": 0,
    "start_time": TIME,
    "end_time": TIME,
    "counts": {"passed": 1},
    "reason": "because",
    "exit_code": 1,
    "past_seconds": None,
    "secrets": [],
}
RUN_ANSWER = {
    "run_id": RUN,
    "pipeline": "ci",
    "number": 3,
    "status": "completed",
    "success": False,
    "reason": "tests failed",
    "start_time": TIME,
    "end_time": TIME,
    "stages": ["one"],
    "jobs": [
        RUN_JOB,
        {**RUN_JOB, "name": "waits", "job_id": None, "status": "queued"},
        {**RUN_JOB, "name": "left", "skipped": True, "job_id": None},
    ],
}
EXECUTION = {
    "id": "e",
    "status": "FAILED",
    "reason": "because",
    "allowFailure": False,
    "startTime": TIME,
    "completionTime": TIME,
}
REPORT = {
    "id": "r",
    "name": "ci",
    "runNumber": 1,
    "commitHash": "abc",
    "status": "FAILED",
    "startTime": TIME,
    "completionTime": TIME,
    "reason": "because",
    "stages": [
        {
            "id": "s",
            "name": "one",
            "status": "FAILED",
            "pipelineName": "ci",
            "startTime": TIME,
            "completionTime": TIME,
            "jobs": [
                {
                    "name": "a",
                    "runNumber": 1,
                    "stageName": "one",
                    "commitHash": "c",
                    "status": "FAILED",
                    "reason": "x",
                    "executions": [EXECUTION],
                },
                {
                    "name": "b",
                    "runNumber": 1,
                    "stageName": "one",
                    "commitHash": "c",
                    "status": "PENDING",
                    "reason": "x",
                    "executions": [],
                },
            ],
        }
    ],
}
TEST = {
    "id": "test_a.py::test_it",
    "outcome": "failed",
    "duration": 0.1,
    "pass_rate": 0.5,
    "counts": {"passed": 1},
    "before": 0.1,
    "now": 0.2,
    "failing_since": {"at": TIME, "job_id": JOB},
    "flaky": True,
    "flaky_workspaces": 1,
}
PLAN = {
    "pipeline": "ci",
    "stages": ["one"],
    "stage_timeouts": {"one": 5.0},
    "jobs": [
        {
            "name": "a",
            "stage": "one",
            "image": "image",
            "python": "3.12",
            "script": ["echo"],
            "needs": [],
            "env": {"NAME": "value"},
            "services": [{"name": "db", "image": "postgres"}],
            "skipped": "unchanged",
            "secrets": ["S"],
            "artifacts": ["x"],
            "artifacts_from": ["b"],
        },
        {"name": "b", "stage": "one", "args": ["-v"]},
    ],
}
PROBLEM = {
    "file": "x.yaml",
    "line": 1,
    "column": 1,
    "path": "jobs.a",
    "severity": "error",
    "message": "wrong",
}
CHECKED = {"problems": [PROBLEM, {**PROBLEM, "severity": "warning"}], "pipelines": ["ci"]}
ARTIFACT = {"path": "out/a.txt", "size": 1, "sha256": "0" * 64, "executable": False, "kept_until": TIME}
CHANGES = {
    "root": "/project",
    "files": [
        {
            "path": "out/a.txt",
            "kind": "created",
            "size": 1,
            "sha256": "0" * 64,
            "executable": False,
            "before": None,
        },
        {
            "path": "conftest.py",
            "kind": "deleted",
            "size": 0,
            "sha256": None,
            "executable": False,
            "before": "0" * 64,
        },
    ],
}
LOGGED = [
    {"seq": 1, **log("line one\n", "stdout")},
    {"seq": 2, **log("of the runner\n", "runner")},
    {"seq": 3, "type": "state", "phase": "queued", "queue_position": 2, "detail": "waiting"},
]

#: Beginning of a path → the answer.
ANSWERS: list[tuple[str, str, Any]] = [
    ("GET", r"/jobs", [SUMMARY]),
    ("GET", r"/jobs/[^/]+", SUMMARY),
    ("GET", r"/jobs/[^/]+/tests", [TEST]),
    ("GET", r"/jobs/[^/]+/artifacts", [ARTIFACT]),
    ("GET", r"/jobs/[^/]+/changes", CHANGES),
    ("GET", r"/jobs/[^/]+/events", LOGGED),
    ("GET", r"/runs", [RUN_ANSWER]),
    ("GET", r"/runs/[^/]+", RUN_ANSWER),
    ("GET", r"/pipelines/.+/runs/3", RUN_ANSWER),
    ("GET", r"/pipelines/.+/durations", {"a": 3.0}),
    ("GET", r"/reports/pipelines.*", REPORT),
    ("GET", r"/reports/tests", {"kind": "flaky", "runs": [{"at": TIME}], "tests": [TEST]}),
    (
        "GET",
        r"/kept",
        [{"root": "/a", "job": "b", "pattern": "c", "files": 1, "bytes": 2, "at": TIME, "problem": "d"}],
    ),
    ("DELETE", r"/kept", {"removed": 1}),
    ("POST", r"/pipelines/check", {**CHECKED, "plan": PLAN}),
    ("POST", r"/runs", RUN_ANSWER),
    ("POST", r"/runs/[^/]+/rerun", RUN_ANSWER),
    ("DELETE", r"/runs/[^/]+", RUN_ANSWER),
    ("DELETE", r"/jobs/[^/]+", {}),
    ("POST", r"/submit-async", {"job_id": JOB}),
]
#: Command line → whether jobs' own output is shown, which may have colours.
COMMANDS: dict[str, bool] = {
    "list": False,
    "list --json": False,
    f"show {JOB}": False,
    f"show {JOB} --json --tests": False,
    f"show {JOB} --tests": False,
    "tests --flaky": False,
    "tests --failing-since": False,
    "tests --json": False,
    "keep list --everywhere": False,
    "keep list --json": False,
    "keep clear": False,
    f"artifacts {JOB} --list": False,
    f"artifacts {JOB} --json": False,
    f"artifacts {JOB}": False,
    f"pull {JOB}": False,
    f"pull {JOB} --dry-run --force": False,
    f"pull {JOB} --json --force": False,
    f"cancel {JOB}": False,
    "submit --async": False,
    "submit": True,
    f"wait {JOB} --all": True,
    "pipeline check x.yaml": False,
    "pipeline dry-run x.yaml": False,
    "pipeline dry-run x.yaml --format json": False,
    "pipeline status ci#3": False,
    "pipeline status ci#3 --watch": False,
    f"pipeline status {RUN[:8]}": False,
    "pipeline logs ci#3": True,
    "pipeline logs ci#3 --job nothing": False,
    "pipeline rerun ci#3 --async": False,
    "pipeline cancel ci#3": False,
    "pipeline report ci": False,
    "pipeline report ci --format junit": False,
    "pipeline report ci --format html": False,
    "pipeline report ci --format json": False,
    "pipeline artifacts ci#3": False,
    "pipeline run x.yaml --async": False,
    "pipeline run x.yaml": True,
}


@dataclass
class Malice:
    """A runner whose answers are poisoned."""

    runner: FakeRunner
    #: What becomes of an answer: (value, what it answers) → value.
    poison: Callable[[Any, str], Any] = lambda value, route: value
    #: Routes that were asked for.
    asked: list[str] = field(default_factory=list)

    def answer(self, request: Request) -> tuple[int, Any, dict[str, str]] | None:
        for method, route, value in ANSWERS:
            if method == request.method and re.fullmatch(route, request.path):
                if route.endswith("/events") and request.query.get("after", "0") != "0":
                    return 200, [], {}
                self.asked.append(f"{method} {route}")
                return 200, self.poison(copy.deepcopy(value), f"{method} {route}"), {}
        return None


@pytest.fixture
def malice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Malice]:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text("")
    (project / "x.yaml").write_text("jobs: {}\n")
    monkeypatch.chdir(project)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("pytest_remote_ci.session.pipeline_files.can_read_locally", lambda: False)
    monkeypatch.setattr("pytest_remote_ci.client.runs.secrets_of", lambda names: {})
    monkeypatch.setattr("pytest_remote_ci.client.retry.pause", lambda *args: 0.0)
    with fake_runner() as runner:
        monkeypatch.setenv("REMOTE_CI_URL", runner.url)
        monkeypatch.setenv("REMOTE_CI_API_KEY", KEY)
        made = Malice(runner)
        runner.intercept = made.answer
        yield made


def stream(malice: Malice, job: list[dict[str, Any]], run: list[dict[str, Any]]) -> None:
    """What the streams of all jobs and runs give."""

    class Every(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            return made_run if key.startswith("2") else made_job

    made_job, made_run = malice.runner.add_job(*job), malice.runner.add_job(*run)
    malice.runner.jobs = Every(malice.runner.jobs)


JOB_EVENTS = [
    *({**event} for event in LOGGED),
    complete(1, reason="because", artifacts={"files": 1, "root": "/w"}),
]
RUN_EVENTS = [
    {"type": "run_job", "job": "tests", "reason": "x"},
    {**log("text\n", "stdout"), "job": "tests", "job_id": JOB},
    {"type": "run_complete", "status": "failed", "reason": "because"},
]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of each text in an answer, and of each name of a member."""
    if isinstance(value, str):
        yield path
    for key, item in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from leaves(item, (*path, key))


def with_evil(value: Any, evil: str, only: tuple[Any, ...] | None = None, path: tuple[Any, ...] = ()) -> Any:
    """The answer with this text in each of its texts, or in one."""
    if isinstance(value, str):
        return f"{value}{evil}" if only in (None, path) else value
    if isinstance(value, list):
        return [with_evil(item, evil, only, (*path, number)) for number, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: with_evil(item, evil, only, (*path, key)) for key, item in value.items()}
    return value


def run(capfd: pytest.CaptureFixture[str], line: str) -> str:
    """What a command writes; whatever the runner says, it ends without a traceback."""
    with suppress(SystemExit):
        main.main(line.split())
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    return out + err


def bad(text: str, *, has_colours: bool = False) -> set[str]:
    """What a terminal would obey."""
    if has_colours:
        text = COLOURS.sub("", text)
    return {char for char in text if holds_any(char) and char not in "\n\t"}


@pytest.mark.sampled(10)
@pytest.mark.parametrize("line", COMMANDS)
def test_each_field_of_each_answer_is_printed_harmlessly(
    malice: Malice, capfd: pytest.CaptureFixture[str], line: str
) -> None:
    """All fields at once, then one after the other: what one of them is decides whether others are shown."""
    stream(malice, JOB_EVENTS, RUN_EVENTS)
    shown = run(capfd, line)
    asked = list(dict.fromkeys(malice.asked))
    answers = {f"{method} {route}": value for method, route, value in ANSWERS}
    cases = [(route, None) for route in asked] + [
        (route, place) for route in asked for place in leaves(answers[route])
    ]
    survived = 0
    for route, only in cases:

        def poison(value: Any, what: str, route: str = route, only: Any = only) -> Any:
            return with_evil(value, f"(evil{ALL})", only) if what == route else value

        malice.poison = poison
        text = run(capfd, line)
        assert not bad(text, has_colours=COMMANDS[line]), (route, only, text)
        survived += "(evil" in text
    if (
        shown.strip()
        and not COMMANDS[line]
        and not line.endswith("--async")
        and line not in (f"cancel {JOB}", "keep clear")
    ):
        assert survived, "nothing of it was shown at all"


@pytest.mark.sampled(2)
@pytest.mark.parametrize("line", [line for line, shows_log in COMMANDS.items() if shows_log])
def test_each_field_of_each_event_is_printed_harmlessly(
    malice: Malice, capfd: pytest.CaptureFixture[str], line: str
) -> None:
    for only in [None, *leaves(JOB_EVENTS), *leaves(RUN_EVENTS)]:
        evil = f"(evil\x1b[31m{ALL}"
        stream(malice, with_evil(JOB_EVENTS, evil, only), with_evil(RUN_EVENTS, evil, only))
        if only and only[-1] == "type":
            continue  # then it is another event
        if only is None:
            kept = [
                {**event, "type": plain["type"]}
                for event, plain in zip(with_evil(JOB_EVENTS, evil), JOB_EVENTS, strict=True)
            ]
            kept_run = [
                {**event, "type": plain["type"]}
                for event, plain in zip(with_evil(RUN_EVENTS, evil), RUN_EVENTS, strict=True)
            ]
            stream(malice, kept, kept_run)
        malice.runner.by_idempotency_key.clear()
        assert not bad(run(capfd, line), has_colours=True), only


@pytest.mark.sampled(15)
@pytest.mark.parametrize("name", CLASSES)
def test_each_class_of_characters_is_printed_harmlessly(
    malice: Malice, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    evil = CLASSES[name]
    malice.poison = lambda value, route: with_evil(value, evil)
    for line in (
        "list",
        f"show {JOB}",
        "pipeline report ci",
        "pipeline check x.yaml",
        "pipeline dry-run x.yaml",
    ):
        assert not bad(run(capfd, line)), line
    malice.poison = lambda value, route: with_evil(value, evil, (0, "data"))
    text = run(capfd, "pipeline logs ci#3 --job tests")
    assert not bad(text)
    assert "line one" in text
    assert "the runner" in text, "it hides no more than itself, and what an escape alone begins"
    encoded = escaped_json({"a": [evil]})
    assert not bad(encoded)
    assert json.loads(encoded) == {"a": [evil]}


@pytest.mark.sampled(80)
@pytest.mark.parametrize("status", [300, 401, 404, 405, 409, 429, 503])  # each kind that the client knows
@pytest.mark.parametrize("line", COMMANDS)
def test_refusals_are_printed_harmlessly(
    malice: Malice, capfd: pytest.CaptureFixture[str], line: str, status: int
) -> None:
    def refuse(request: Request) -> tuple[int, Any, dict[str, str]]:
        header = "http://x/\x1b]52;c;eA==\x07\x9b2J"
        return status, {"detail": f"why {ALL}"}, {"Location": header, "Retry-After": "0"}

    malice.runner.intercept = refuse
    if status in (429, 503):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pytest_remote_ci.client.client._SUBMIT_PATIENCE", 0.0)
            if not any(word in line for word in ("wait", "--watch")):
                assert not bad(run(capfd, line))
        return
    text = run(capfd, line)
    assert not bad(text)
    assert text.strip()


@pytest.mark.sampled(10)
@pytest.mark.parametrize("line", COMMANDS)
def test_answers_of_a_wrong_shape_give_no_traceback(
    malice: Malice, capfd: pytest.CaptureFixture[str], line: str
) -> None:
    """A traceback prints the texts of what went wrong as they are."""
    evil = f"(evil{ALL})"
    stream(malice, JOB_EVENTS, RUN_EVENTS)
    run(capfd, line)
    wrong: list[Any] = [
        None,
        3,
        evil,
        [],
        [evil],
        [[evil]],
        {},
        {evil: evil},
        [{evil: evil}],
        {"detail": evil},
        [None],
    ]
    for route in dict.fromkeys(malice.asked):
        if route.endswith("/rerun"):  # then it is followed for ever
            continue
        for value in wrong:

            def poison(answer: Any, what: str, route: str = route, value: Any = value) -> Any:
                return value if what == route else answer

            malice.poison = poison
            assert not bad(run(capfd, line), has_colours=COMMANDS[line]), (route, value)


# -- sessions of pytest


#: Every field of every record that the local session makes something of.
def session(root: str, name: str = "test_a") -> list[dict[str, Any]]:
    failed = outcome_of(name, "failed")
    failed[1]["d"] |= {
        "longrepr": "broken",
        "sections": [["Captured stdout call", "printed"]],
        "user_properties": [["k", "v"]],
        "keywords": {"word": 1},
    }
    failed[1]["status"] = ["failed", "F", "FAILED"]
    warning = record(
        "session",
        "warning",
        message="careful",
        name="UserWarning",
        module="builtins",
        bases=["UserWarning"],
        file="test_it.py",
        lineno=1,
        line="x",
        location=["test_it.py", 1, "f"],
        when="runtest",
        id=f"test_it.py::{name}",
    )
    head = session_of(root, name, plugins=("other-plugin",))
    lines = record("collected", "collection_lines", lines=["run-last-failure: none"])
    say = record("session", "terminal", target="tr", method="write_line", args=["a plugin's line"], kwargs={})
    return [
        {"type": "state", "phase": "preparing", "detail": "installing"},
        log("Collecting pytest\n", "runner"),
        *head[:-2],
        lines,
        *head[-1:],
        log("printed past pytest\n", "stdout"),
        log("and again\n", "stderr"),
        *failed[1:],
        warning,
        record("session", "note", text="a note"),
        say,
        *end_of_session(1),
        complete(1, reason="because", artifacts={"files": 1, "bytes": 1, "root": root}),
    ]


#: Names of members that say what an event is, or which test it is of.
STRUCTURE = {
    "type",
    "t",
    "stream",
    "target",
    "method",
    "$report_type",
    "when",
    "timestamp",
    "protocol",
    "phase",
}


def poisoned_session(root: str, evil: str) -> list[dict[str, Any]]:
    def walk(value: Any, key: object = None) -> Any:
        if isinstance(value, str):
            return value if key in STRUCTURE else f"{value}{evil}"
        if isinstance(value, list):
            return [walk(item, key) for item in value]
        if isinstance(value, dict):
            return {name: walk(item, name) for name, item in value.items()}
        return value

    events: list[dict[str, Any]] = walk(session(root))
    for event in events:
        if event.get("t") == "warning":
            event["bases"] = ["UserWarning"]
        if event.get("t") == "report":
            event["d"]["outcome"] = "failed"
        if event.get("t") == "tree":
            for node in event["nodes"]:
                node[5] = node[5].partition("\x1b")[0].partition("<")[0]
    return events


def direct(project: Path, *arguments: str, runner: FakeRunner, is_terminal: bool) -> str:
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_CORE_"))
    }
    environ |= {"REMOTE_CI_URL": runner.url, "REMOTE_CI_API_KEY": KEY, "TERM": "xterm", "COLUMNS": "300"}
    command = [sys.executable, "-m", "pytest", "--remote-ci", *arguments]
    if not is_terminal:
        done = subprocess.run(
            command, cwd=project, env=environ, capture_output=True, timeout=120, check=False
        )
        return (done.stdout + done.stderr).decode()
    here, there = pty.openpty()
    process = subprocess.Popen(command, cwd=project, env=environ, stdin=there, stdout=there, stderr=there)
    os.close(there)
    shown = b""
    with suppress(OSError):  # the other end is closed
        while data := os.read(here, 65536):
            shown += data
    os.close(here)
    process.wait(60)
    return shown.decode()


#: What this process itself writes on a terminal: its status line, and names of running tests.
OURS = re.compile(r"\r\x1b\[K|\x1b7|\x1b8|\x1b\[K")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "arguments", [("-v", "-rA"), ("-vv", "--co"), ("-q", "--tb=short"), ("--remote-ci-text",)]
)
@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "pipe"])
def test_no_record_of_a_session_steers_a_terminal(
    malice: Malice, tmp_path: Path, arguments: tuple[str, ...], is_terminal: bool
) -> None:
    project = tmp_path / "project"
    malice.runner.script = poisoned_session(str(project), f"(evil\x1b[31m{ALL})")
    malice.runner.intercept = lambda request: (
        (200, with_evil([ARTIFACT], ALL), {}) if request.path.endswith("/artifacts") else None
    )
    text = direct(project, *arguments, runner=malice.runner, is_terminal=is_terminal)
    assert "(evil" in text
    assert "INTERNALERROR" not in text
    if is_terminal:
        left = bad(OURS.sub("", text).replace("\r\n", "\n"), has_colours=True)
    else:  # plain characters are as a direct run writes them; what steers a terminal is not
        left = {char for char in COLOURS.sub("", text) if char == "\x1b" or "\x80" <= char <= "\x9f"}
    assert not left, text


def test_what_a_runner_sends_for_the_cache_names_no_files(malice: Malice, tmp_path: Path) -> None:
    """Keys of pytest's cache are paths: ``../../../x`` is a file of the project, or beside it."""
    project = tmp_path / "project"
    end = record(
        "session", "end", exitstatus=0, cache={"../../../evil.json": {"a": 1}, "cache/stepwise": ["x"]}
    )
    malice.runner.script = [
        *session_of(str(project), "test_a"),
        *outcome_of("test_a")[1:],
        *end_of_session(0)[:-1],
        end,
        complete(0),
    ]
    malice.runner.intercept = lambda request: None
    text = direct(project, runner=malice.runner, is_terminal=False)
    assert "1 passed" in text
    assert not (project / "evil.json").exists()
    assert not list(tmp_path.glob("**/evil*"))
    assert json.loads((project / ".pytest_cache/v/cache/stepwise").read_text()) == ["x"]


def test_an_event_that_is_nested_too_deeply_is_said(malice: Malice, tmp_path: Path) -> None:
    deep: Any = "x"
    for _ in range(600):
        deep = [deep]
    project = tmp_path / "project"
    malice.runner.script = [
        *session_of(str(project), "test_a"),
        record("session", "note", text=deep),
        complete(0),
    ]
    malice.runner.intercept = lambda request: None
    text = direct(project, runner=malice.runner, is_terminal=False)
    assert "Traceback" not in text
