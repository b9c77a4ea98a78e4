"""The nouns of the core as JSON and back, and what of them a client may see."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace

import pytest

from ci_runner.model.job import APIKey, Job, JobEvent, NaiveTimeWarning, User, format_time, parse_time
from ci_runner.model.job_options import JobOptions

MOMENT = dt.datetime(2024, 2, 29, 23, 59, 59, 123456, dt.timezone.utc)
LATER = MOMENT + dt.timedelta(hours=1)

EVENTS = [
    JobEvent("log", "text\n", None, MOMENT, 1, {"stream": "stdout"}),
    JobEvent("state", None, None, LATER, 2, {"status": "running", "phase": "testing"}),
    JobEvent("complete", None, False, LATER, 3, {"exit_code": 1, "reason": None}),
    JobEvent("complete"),
]
JOB = Job(
    "job",
    "completed",
    tuple(EVENTS[:3]),
    True,
    MOMENT,
    LATER,
    "of-the-engine",
    None,
    "ann",
    phase="finishing",
    exit_code=0,
    name="mine",
    priority="high",
    submitted_at=MOMENT,
    options=JobOptions.from_dict({"args": ["-x"]}),
    workspace="digest-of-files",
    attempt=2,
    environment="key",
    cancel_requested_at=MOMENT,
    cancelled_by="bob",
    phase_since=LATER,
    stop_intent="cancel",
    stop_requested_at=MOMENT,
    cleaned_at=LATER,
    last_seq=3,
    log_bytes=5,
    counts={"passed": 2},
)
USER = User("u", "Ann", "ann@example.org", MOMENT, False, "high")
KEY = APIKey("abcdefgh", "u", "f" * 64, "laptop", MOMENT, LATER, True, None)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_an_event_comes_back_as_it_was(event: JobEvent) -> None:
    assert JobEvent.from_dict(json.loads(json.dumps(event.to_dict())), seq=event.seq) == event


@pytest.mark.parametrize("job", [JOB, Job("x")], ids=["full", "new"])
def test_a_job_comes_back_as_it_was(job: Job) -> None:
    assert Job.from_dict(json.loads(json.dumps(job.to_dict()))) == job


def test_a_user_and_a_key_come_back_as_they_were_but_for_the_secret() -> None:
    assert User.from_dict(json.loads(json.dumps(USER.to_dict()))) == USER
    assert APIKey.from_dict(json.loads(json.dumps(KEY.to_dict()))) == replace(KEY, key_hash="")


def test_a_field_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(TypeError, match="colour"):
        Job.from_dict({"id": "x", "colour": "red"})


def test_a_client_sees_no_ids_of_others_no_paths_and_no_key() -> None:
    shown = JOB.to_summary_dict()
    assert shown["job_id"] == JOB.id
    assert not shown.keys() & {
        "user_id",
        "container_id",
        "zip_file_path",
        "workspace",
        "environment",
        "options",
    }
    for secret in ("of-the-engine", "digest-of-files", "ann"):
        assert secret not in json.dumps(shown)
    assert "f" * 64 not in json.dumps(KEY.to_dict()) + json.dumps(KEY.to_summary_dict())


@pytest.mark.parametrize(
    ("status", "over"),
    [("queued", False), ("running", False), ("completed", True), ("failed", True), ("cancelled", True)],
)
def test_a_job_is_over_when_its_status_is_final(status: str, over: bool) -> None:
    assert Job.from_dict({"id": "x", "status": status}).is_over is over


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-02-29T23:59:59.123456Z", MOMENT),
        ("2024-03-01T01:29:59.123456+01:30", MOMENT),
        (None, None),
    ],
)
def test_times_are_read_with_their_zone(text: str | None, moment: dt.datetime | None) -> None:
    assert parse_time(text) == moment
    assert parse_time(format_time(moment)) == moment


@pytest.mark.parametrize("text", ["2024-02-29T23:59:59", "yesterday", "2024-02-30T00:00:00Z"])
def test_a_time_without_a_zone_or_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_time(text)


def test_a_naive_time_is_written_as_utc_with_a_warning() -> None:
    with pytest.warns(NaiveTimeWarning, match="datetime.now"):
        assert format_time(MOMENT.replace(tzinfo=None)) == "2024-02-29T23:59:59.123456Z"


def test_an_event_may_get_its_time_beside_its_dictionary() -> None:
    raw = {"type": "log", "data": "x", "timestamp": format_time(MOMENT)}
    assert JobEvent.from_dict(raw) == JobEvent("log", "x", timestamp=MOMENT)
    assert JobEvent.from_dict(raw, LATER) == JobEvent("log", "x", timestamp=LATER)
    assert JobEvent.from_dict({"type": "error"}, timestamp=LATER).timestamp == LATER
