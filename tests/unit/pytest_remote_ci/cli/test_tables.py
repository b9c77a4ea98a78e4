"""Text tables of jobs."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from typing import Any

import pytest

from pytest_remote_ci.cli import context, tables
from pytest_remote_ci.wire.answers import Job

NOW = datetime(2026, 1, 2, 4, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"status": "completed", "success": True, "counts": {"passed": 40}}, "40 passed"),
        (
            {"status": "completed", "success": False, "counts": {"passed": 40, "failed": 3}},
            "3 failed, 40 passed",
        ),
        (
            {"status": "completed", "success": False, "exit_code": 1, "counts": {"passed": 4}},
            "failed (exit code 1), 4 passed",
        ),
        (
            {"status": "completed", "success": True, "counts": {"passed": 4, "failed": 1}},
            "passed, 1 failed, 4 passed",
        ),
        ({"status": "completed", "success": False, "exit_code": 2, "counts": {}}, "failed (exit code 2)"),
        ({"status": "completed", "success": True, "counts": {}}, "passed"),
        ({"status": "failed", "success": False, "counts": {"passed": 2}}, "no verdict, 2 passed"),
        ({"status": "cancelled", "success": None, "counts": {}}, "cancelled"),
        ({"status": "queued", "queue_position": 3, "counts": {}}, "queued, position 3"),
        (
            {"status": "queued", "queue_position": 1, "counts": {}, "detail": "the engine is down"},
            "queued, position 1: the engine is down",
        ),
        (
            {"status": "running", "phase": "testing", "counts": {"passed": 2, "failed": 1}},
            "testing, 1 failed, 2 passed",
        ),
        ({"status": "odd"}, "odd"),
    ],
)
def test_a_result_is_said_in_words(job: dict[str, Any], words: str) -> None:
    assert tables.result(Job({"job_id": "j", **job})) == words


@pytest.mark.parametrize(("text", "number"), [("90", 90.0), ("10m", 600.0), ("1h 30m", 5400.0)])
def test_a_time_is_seconds_or_words(text: str, number: float) -> None:
    assert context.seconds(text) == number
    for wrong in ("soon", "0", "-1", "nan", "inf", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="must be seconds above 0"):
            context.seconds(wrong)


def test_runs_and_their_jobs_are_told_apart() -> None:
    common = {
        "status": "completed",
        "success": True,
        "counts": {"passed": 1},
        "submitted_at": "2026-01-02T03:00:00Z",
    }
    times = {"start_time": "2026-01-02T03:00:00Z", "end_time": "2026-01-02T03:01:30Z"}
    run = {"run_id": "9f8e7d6c-0000-4000-8000-000000000000", "stage": "test", "planned": "unit"}
    found: list[dict[str, Any]] = [
        {"job_id": "1" * 36, "name": "nightly", "project": "shop", **common, **times},
        {"job_id": "2" * 36, "name": None, **common, **run, "reason": "a \x1b[2Jreason"},
    ]
    head, first, second = tables.jobs(map(Job, found), NOW)
    assert head.split() == ["JOB", "NAME", "PROJECT", "RESULT", "DURATION", "AGE", "REASON"]
    assert first.split("  ")[0] == "11111111"
    assert [cell.strip() for cell in first.split("  ") if cell] == [
        "11111111",
        "nightly",
        "shop",
        "1 passed",
        "90 s",
        "60 min",
    ]
    assert "run 9f8e7d6c: test / unit" in second
    assert "\x1b" not in second
    assert second.rstrip().endswith("reason")
