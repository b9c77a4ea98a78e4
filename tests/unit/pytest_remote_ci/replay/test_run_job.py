"""One job of a run in the local session: what is no recorded session, and records that make no sense."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_remote_ci.replay.job import PipelineJob
from pytest_remote_ci.session.arguments import Place
from pytest_remote_ci.wire.answers import RunJob
from pytest_remote_ci.wire.events import Event

PLANNED = RunJob({"name": "tests", "stage": "test", "status": "running"})
RECORDER: dict[str, Any] = {"type": "session", "t": "recorder", "protocol": 1, "cwd": "/x"}
LOG: dict[str, Any] = {"type": "log", "stream": "terminal", "data": "1 failed"}
COMPLETE: dict[str, Any] = {"type": "complete", "status": "completed", "exit_code": 1}


@pytest.fixture
def job(request: pytest.FixtureRequest, tmp_path: Path) -> PipelineJob:
    session: Any = SimpleNamespace(config=request.config, items=[], shouldfail=False, shouldstop=False)
    return PipelineJob(cast(pytest.Session, session), PLANNED, "tests", Place(tmp_path, tmp_path))


TEXTS = [
    ("an old runner", [LOG], "the runner records no sessions (it is older than this client)"),
    (
        "an old pytest",
        [RECORDER, {"type": "session", "t": "unavailable", "reason": "pytest 6.2.5 is older than 7.0"}, LOG],
        "the session could not be recorded: pytest 6.2.5 is older than 7.0",
    ),
    (
        "newer records",
        [{**RECORDER, "protocol": 3}, LOG],
        "the runner's records are of version 3, newer than this client's 2: upgrade it",
    ),
]


@pytest.mark.parametrize(("events", "why"), [row[1:] for row in TEXTS], ids=[row[0] for row in TEXTS])
def test_a_job_that_is_not_recorded_says_why_and_leaves_it_to_its_log(
    job: PipelineJob, events: list[dict[str, Any]], why: str
) -> None:
    for event in [*events, {"type": "session", "t": "collecting"}, COMPLETE]:
        job.handle(Event(event))
    assert not job.has_started
    assert job.remarks() == [f"its tests are not shown: {why}"]
    assert (job.complete, job.failures, list(job.reported_nodes)) == (Event(COMPLETE), 0, [])


def test_a_pytest_that_ends_before_its_session_has_nothing_to_tell(job: PipelineJob) -> None:
    for event in [RECORDER, LOG, COMPLETE]:
        job.handle(Event(event))
    assert (job.has_started, job.remarks()) == (False, [])


@pytest.mark.parametrize(
    "nonsense",
    [
        {"type": "collected", "t": "tree", "nodes": [[1]], "items": []},
        {"type": "started", "t": "started", "id": "a", "location": 3},
        {"type": "report", "t": "report", "d": {}},
        {"type": "warning", "t": "warning", "id": "a"},
        {"type": "collected", "t": "collection_lines", "lines": [7]},
        {"type": "collected", "t": "tree", "nodes": [], "items": [[7, "F", "t", "a.py::t", ["a", 1, "t"]]]},
    ],
    ids=lambda event: event["t"],
)
def test_records_that_make_no_sense_end_the_job_s_session_in_one_line(
    job: PipelineJob, nonsense: dict[str, Any]
) -> None:
    begin: dict[str, Any] = {
        "type": "session",
        "t": "session",
        "protocol": 2,
        "pytest": "9.0.0",
        "python": "3.12.0",
        "rootdir": "/x",
        "plugins": [],
    }
    for event in [RECORDER, begin, {"type": "session", "t": "collecting"}, nonsense, nonsense, COMPLETE]:
        job.handle(Event(event))
    (line,) = job.remarks()
    assert line.startswith(f"a record of kind {nonsense['t']!r} is invalid")
