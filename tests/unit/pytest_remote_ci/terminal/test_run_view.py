"""A run on a terminal and in a log: what is shown of each state, and how it is drawn again."""

from __future__ import annotations

import io
from datetime import datetime, timezone
from typing import Any

import pytest

from pytest_remote_ci.terminal.run_view import RunView, bar, block, state_of, verdict, words
from pytest_remote_ci.wire.answers import Run, RunJob

NOW = datetime(2026, 1, 1, 12, 0, 30, tzinfo=timezone.utc)
JOB: dict[str, Any] = {
    "name": "a",
    "stage": "one",
    "skipped": False,
    "status": "queued",
    "success": None,
    "job_id": None,
    "reused": False,
    "allow_failure": False,
    "phase": None,
    "retry": 0,
    "start_time": None,
    "end_time": None,
    "counts": {},
    "reason": None,
    "exit_code": None,
    "past_seconds": None,
}
STARTED = {"job_id": "j", "start_time": "2026-01-01T12:00:00Z"}
OVER = {**STARTED, "end_time": "2026-01-01T12:00:12Z"}
RUNNING = {**JOB, **STARTED, "status": "running", "phase": "testing"}


def run(*jobs: dict[str, Any], **more: Any) -> Run:
    return Run(
        {
            "run_id": "r",
            "pipeline": "ci",
            "number": 2,
            "stages": ["one"],
            "jobs": list(jobs),
            "status": "running",
            "success": None,
            "reason": None,
            **more,
        }
    )


@pytest.mark.parametrize(
    ("job", "shown"),
    [
        (JOB, "waiting"),
        ({**JOB, "job_id": "j"}, "queued"),
        ({**RUNNING, "phase": "preparing"}, "preparing  30 s"),
        ({**RUNNING, "counts": {"passed": 3}}, "running  30 s  3 passed"),
        ({**JOB, **OVER, "status": "completed", "success": True}, "passed  12 s"),
        ({**JOB, **OVER, "status": "completed", "success": True, "reused": True}, "passed before"),
        (
            {**JOB, **OVER, "status": "completed", "success": False, "exit_code": 4},
            "failed  12 s  exit code 4",
        ),
        (
            {**JOB, **OVER, "status": "completed", "success": False, "exit_code": 4, "allow_failure": True},
            "failed, allowed  12 s  exit code 4",
        ),
        (
            {**JOB, **OVER, "status": "failed", "reason": "container lost", "retry": 1},
            "failed  try 2  12 s  container lost",
        ),
        (
            {**JOB, "status": "cancelled", "reason": "needs 'b', which failed"},
            "cancelled  needs 'b', which failed",
        ),
        ({**JOB, "skipped": True, "reason": "nothing changed"}, "left out  nothing changed"),
    ],
)
def test_what_is_said_of_a_job(job: dict[str, Any], shown: str) -> None:
    assert words(RunJob(job), NOW) == shown


def test_the_bar_is_measured_by_past_runs() -> None:
    assert bar(RunJob(RUNNING), NOW) == ""
    assert bar(RunJob({**RUNNING, "past_seconds": 60.0}), NOW) == "██████░░░░░░ of 60 s  "
    assert bar(RunJob({**RUNNING, "past_seconds": 3.0}), NOW).startswith("█" * 12)
    assert bar(RunJob({**JOB, "past_seconds": 3.0}), NOW) == ""


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({"status": "completed", "success": True}, "ci #2 passed"),
        ({"status": "completed", "success": False, "reason": "x"}, "ci #2 FAILED: x"),
        ({"status": "cancelled"}, "ci #2 was cancelled"),
        ({"status": "failed", "reason": "the run timed out"}, "ci #2 failed: the run timed out"),
    ],
)
def test_the_last_line(more: dict[str, Any], shown: str) -> None:
    assert verdict(run(**more)) == shown


def test_without_a_terminal_each_change_is_one_line() -> None:
    out = io.StringIO()
    view = RunView(out)
    view.show(run(JOB))
    for _ in range(3):
        view.show(run({**RUNNING, "phase": "testing", "start_time": None}))
    view.show(run({**JOB, **OVER, "status": "completed", "success": True}))
    assert out.getvalue() == "one / a: running\none / a: passed  12 s\n"


def test_on_a_terminal_the_block_is_drawn_over_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    view = RunView(out)
    view.is_terminal = True
    view.show(run(JOB))
    assert out.getvalue() == "one:\n  · a  waiting\n"
    view.show(run({**JOB, **OVER, "status": "completed", "success": True}))
    assert out.getvalue().endswith("\x1b[2A\x1b[Jone:\n\x1b[32m  ✓ a  passed  12 s\x1b[0m\n")
    view.print_message("a line")
    assert out.getvalue().endswith("\x1b[2A\x1b[Ja line\n")
    monkeypatch.setenv("COLUMNS", "12")
    view.show(run(JOB))
    assert out.getvalue().endswith("one:\n  · a  wai…\n")


def test_stages_stand_in_their_order() -> None:
    late = {**JOB, "name": "long name", "stage": "two"}
    lines = [line for _, line in block(run(late, JOB, stages=["one", "empty", "two"]), NOW)]
    assert lines == ["one:", "  · a          waiting", "empty:", "two:", "  · long name  waiting"]
    assert state_of(RunJob(late)) == "waiting"
