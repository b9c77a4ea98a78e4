"""The controller's small parts: backoff, clock, the one-controller lock."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import random
from pathlib import Path

import pytest
from support.engines import FOREVER, MemoryKit

from ci_runner.controller.backoff import Backoff
from ci_runner.controller.clock import SteadyClock
from ci_runner.controller.loop import ControllerRunning, only_one
from ci_runner.controller.snapshot import ContainerView
from ci_runner.model.job import Job, utcnow

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc)


def later(seconds: float) -> dt.datetime:
    return NOW + dt.timedelta(seconds=seconds)


@pytest.fixture
def backoff() -> Backoff:
    return Backoff(base=1.0, cap=8.0, random=random.Random(1))


def test_nothing_is_held_before_a_failure(backoff: Backoff) -> None:
    assert backoff.held(NOW) == frozenset()


def test_a_failure_holds_for_a_while(backoff: Backoff) -> None:
    assert backoff.failed("a", NOW) == 1
    assert backoff.held(later(0.4)) == {"a"}
    assert backoff.held(later(1)) == frozenset()


def test_failures_in_a_row_hold_longer_up_to_the_cap(backoff: Backoff) -> None:
    assert [backoff.failed("a", NOW) for _ in range(50)] == list(range(1, 51))
    assert backoff.held(later(3.9)) == {"a"}
    assert backoff.held(later(8)) == frozenset()


def test_a_failure_may_ask_for_more(backoff: Backoff) -> None:
    backoff.failed("a", NOW, at_least=60)
    assert backoff.held(later(59)) == {"a"}


def test_success_starts_anew(backoff: Backoff) -> None:
    backoff.failed("a", NOW)
    backoff.succeeded("a")
    assert backoff.held(NOW) == frozenset()
    assert backoff.failed("a", NOW) == 1


def test_an_old_failure_is_forgotten(backoff: Backoff) -> None:
    backoff.failed("a", NOW)
    backoff.held(later(3600))
    assert backoff.failed("a", later(3600)) == 1


def test_something_may_be_held_without_a_failure(backoff: Backoff) -> None:
    backoff.hold("a", NOW, 5)
    assert backoff.held(later(4)) == {"a"}
    assert backoff.failed("a", NOW) == 1


def test_waits_differ_between_subjects(backoff: Backoff) -> None:
    for number in range(100):
        backoff.failed(str(number), NOW)
    assert 10 < len(backoff.held(later(0.75))) < 90


def test_the_clock_is_about_the_wall_clock_and_never_goes_back() -> None:
    clock = SteadyClock()
    assert abs(clock() - utcnow()) < dt.timedelta(seconds=5)
    moments = [clock() for _ in range(1000)]
    assert moments == sorted(moments)


def test_only_one_controller_holds_the_lock(tmp_path: Path) -> None:
    with (
        only_one(tmp_path),
        pytest.raises(ControllerRunning, match=f"process {os.getpid()}"),
        only_one(tmp_path),
    ):
        pass
    with only_one(tmp_path):
        pass


def test_a_container_whose_command_runs_is_not_remembered_from_before_its_start(tmp_path: Path) -> None:
    kit = MemoryKit(tmp_path, "python:3.12-slim")
    spec = kit.spec(FOREVER)
    container_id = kit.engine.create(spec)
    job = Job(spec.job_id, user_id="u", phase="starting", attempt=1, container_id=container_id)
    sight = ContainerView(kit.engine)

    def state(job: Job) -> str:
        [seen] = sight.look((job,), anew=False) or ()
        return seen.state

    assert state(job) == "created"
    kit.engine.start(container_id)  # by a controller that was killed meanwhile: nothing tells this one
    assert state(job) == "created"
    # Its output came first: "created" would mean that the engine had lost what it knew.
    assert state(dataclasses.replace(job, phase="testing")) == "running"
    kit.dispose()
