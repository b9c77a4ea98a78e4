"""The phases between the moments of a job, as far as this controller saw them."""

from __future__ import annotations

import pytest

from ci_runner.controller.timing import JobTimer
from ci_runner.model.job import JobEvent
from pytest_remote_ci.wire.timing import Timing

NOTHING = Timing()
SESSION, STARTED, REPORT = (JobEvent(kind) for kind in ("session", "started", "report"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the steady clock shows next; it moves on by one each time."""
    now = [0.0]

    def monotonic() -> float:
        now[0] += 1
        return now[0]

    monkeypatch.setattr("ci_runner.controller.timing.time.monotonic", monotonic)
    return now


def test_a_recorded_session_has_all_phases(clock: list[float]) -> None:
    timer = JobTimer()
    timer.add("job", {"queue": 0.1, "environment": 2.0}, ["built"])
    timer.mark("job", "prepared")
    timer.mark("job", "running")
    timer.saw("job", [SESSION])
    timer.saw("job", [STARTED])
    clock[0] += 10
    timer.saw("job", [REPORT, JobEvent("log")])
    timer.mark("job", "ended")
    found = timer.pop("job", Timing({"start": 0.3}, ("sent whole",)))
    assert found.cold == ("sent whole", "built")
    assert [name for name, _ in found.ordered()] == [
        *("start", "queue", "environment", "container", "pytest", "tests", "end")
    ]
    assert found.phases["container"] == 1
    assert found.phases["tests"] > 10


def test_a_session_without_tests_only_started_pytest(clock: list[float]) -> None:
    timer = JobTimer()
    for moment in ("prepared", "running", "ended"):
        timer.mark("job", moment)
    timer.saw("job", [SESSION])
    assert timer.pop("job", NOTHING).phases == {"container": 1, "pytest": 1, "end": 1}


def test_all_of_another_command_counts_as_tests(clock: list[float]) -> None:
    timer = JobTimer()
    timer.mark("job", "running")
    timer.saw("job", [JobEvent("log")])
    timer.mark("job", "ended")
    timer.mark("job", "ended")
    # Prepared by an earlier controller: how long the container took to start is unknown.
    assert timer.pop("job", NOTHING).phases == {"tests": 1, "end": 1}


def test_a_job_that_never_ran_has_what_came_before() -> None:
    timer = JobTimer()
    timer.add("job", {"queue": -0.01})
    assert timer.pop("job", NOTHING).phases == {"queue": 0.0}
    assert timer.pop("job", NOTHING) == NOTHING


def test_jobs_that_are_over_are_forgotten() -> None:
    timer = JobTimer()
    timer.add("old", {"queue": 1.0})
    timer.add("open", {"queue": 1.0})
    timer.keep({"open"})
    assert timer.pop("old", NOTHING).phases == {}
    assert timer.pop("open", NOTHING).phases == {"queue": 1.0}
