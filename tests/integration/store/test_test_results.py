"""Results of tests in the store: counted once, whatever happens, and cheap."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ci_runner.errors import Conflict
from ci_runner.model.job import Job, JobEvent, User
from ci_runner.model.verdict import ran
from ci_runner.store import SpoolPosition, Store
from ci_runner.store import test_results as stored_tests

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "runner.db")
    opened.users.create(User("ann", "Ann", "ann@example.org", NOON))
    opened.users.create(User("bob", "Bob", "bob@example.org", NOON))
    yield opened
    opened.close()


def reports(node_id: str, outcome: str = "passed", duration: float = 1.0) -> list[JobEvent]:
    """The three phases of one test."""
    phases = (("setup", "passed", 0.0), ("call", outcome, duration), ("teardown", "passed", 0.0))
    return [
        JobEvent(
            "report",
            timestamp=NOON,
            fields={
                "t": "report",
                "d": {"nodeid": node_id, "when": when, "outcome": result, "duration": seconds},
            },
        )
        for when, result, seconds in phases
    ]


class Past:
    """Recorded jobs, one per call, an hour apart."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.epoch = store.lease.acquire("test")
        self.count = 0

    def job(self, results: dict[str, str | tuple[str, float]], workspace: str = "w", **more: Any) -> str:
        self.count += 1
        options = {"root": more.pop("root", "/home/ann/project")}
        submitted = NOON + dt.timedelta(hours=self.count)
        fields = {
            "user_id": "ann",
            "submitted_at": submitted,
            "workspace": workspace,
            "options": options,
            **more,
        }
        job = Job(f"job{self.count}", **fields)
        self.store.jobs.create(job)
        for node_id, result in results.items():
            outcome, seconds = result if isinstance(result, tuple) else (result, 1.0)
            self.store.events.append(job.id, self.epoch, reports(node_id, outcome, seconds))
        self.store.jobs.finish(job.id, self.epoch, ran(0), end_time=submitted)
        return job.id

    def names(self, kind: stored_tests.Kind, **more: Any) -> list[str]:
        runs = self.store.tests.runs("ann", **more)
        return [item.node_id for item in self.store.tests.report(runs, kind)]


@pytest.fixture
def past(store: Store) -> Past:
    return Past(store)


def test_each_test_of_a_job_is_one_row(past: Past) -> None:
    job_id = past.job({"b": "failed", "a": ("passed", 0.25)})
    found = past.store.tests.list(job_id)
    assert [(item.node_id, item.outcome, item.duration, item.at) for item in found] == [
        ("a", "passed", 0.25, NOON),
        ("b", "failed", 1.0, NOON),
    ]
    assert past.store.tests.list(job_id, after="a") == found[1:]
    assert past.store.tests.list(job_id, limit=1) == found[:1]


def test_phases_that_come_apart_are_added_up(store: Store) -> None:
    epoch = store.lease.acquire("test")
    store.jobs.create(Job("j", user_id="ann"))
    for event in reports("x", "failed", 2.0):
        store.events.append("j", epoch, [event])
    assert [(item.outcome, item.duration) for item in store.tests.list("j")] == [("failed", 2.0)]


def test_what_is_stored_twice_counts_once(store: Store) -> None:
    """A controller that was killed reads the same bytes again; they are refused, and count nothing."""
    epoch = store.lease.acquire("test")
    store.jobs.create(Job("j", user_id="ann"))
    first, second = SpoolPosition(), SpoolPosition(records=10)
    store.events.append("j", epoch, reports("x"), spool=second, attempt=1, expected=first)
    with pytest.raises(Conflict):
        store.events.append("j", epoch, reports("x"), spool=second, attempt=1, expected=first)
    assert [item.duration for item in store.tests.list("j")] == [1.0]


def test_a_job_that_is_over_takes_no_results(past: Past) -> None:
    job_id = past.job({"a": "passed"})
    past.store.events.append(job_id, past.epoch, reports("late"))
    assert [item.node_id for item in past.store.tests.list(job_id)] == ["a"]


def test_ids_that_no_database_takes_are_cleaned(past: Past) -> None:
    job_id = past.job({"a\0b\ud800": "passed"})
    assert [item.node_id for item in past.store.tests.list(job_id)] == ["ab?"]


def test_runs_are_the_owners_recorded_ones_of_a_project(past: Past) -> None:
    one = past.job({"a": "passed", "b": ("failed", 2.0)})
    past.job({"a": "passed"}, user_id="bob")
    past.job({})
    two = past.job({"a": "passed"}, root="/elsewhere")
    three = past.job({"a": "skipped"})
    runs = past.store.tests.runs("ann")
    assert [run.job_id for run in runs] == [one, two, three]
    assert (runs[0].counts, runs[0].duration) == ({"passed": 1, "failed": 1}, 3.0)
    assert [run.job_id for run in past.store.tests.runs("ann", root="/home/ann/project")] == [one, three]
    assert [run.job_id for run in past.store.tests.runs("ann", limit=2)] == [two, three]
    assert past.store.tests.runs("nobody") == []


def test_the_least_reliable_come_first(past: Past) -> None:
    past.job({"good": "passed", "bad": "failed", "half": "passed", "never": "skipped"})
    past.job({"good": "passed", "bad": "failed", "half": "failed", "never": "skipped"})
    assert past.names("all") == ["bad", "half", "good", "never"]


def test_the_slowest_come_first(past: Past) -> None:
    past.job({"a": ("passed", 1.0), "b": ("passed", 3.0), "c": ("failed", 2.0)})
    past.job({"a": ("passed", 1.0), "b": ("passed", 3.0), "c": ("failed", 9.0)})
    assert past.names("slowest") == ["c", "b", "a"]
    runs = past.store.tests.runs("ann")
    assert [item.node_id for item in past.store.tests.report(runs, "slowest", limit=1)] == ["c"]


def test_flaky_are_those_with_both_outcomes_on_the_same_files(past: Past) -> None:
    past.job({"flaky": "passed", "broken": "passed", "good": "passed"}, "w1")
    past.job({"flaky": "failed", "broken": "passed", "good": "passed"}, "w1")
    past.job({"flaky": "passed", "broken": "failed", "good": "passed"}, "w2")
    assert past.names("flaky") == ["flaky"]


def test_failing_are_those_that_passed_before_newest_first(past: Past) -> None:
    past.job({"old": "passed", "new": "passed", "back": "failed", "always": "failed"})
    past.job({"old": "failed", "new": "passed", "back": "passed", "always": "failed"})
    last = past.job({"old": "failed", "new": "failed", "back": "passed", "always": "failed"})
    assert past.names("failing-since") == ["new", "old"]
    [new, old] = past.store.tests.report(past.store.tests.runs("ann"), "failing-since")
    assert new.failing_since is not None
    assert old.failing_since is not None
    assert (new.failing_since[0], old.failing_since[0]) == (last, "job2")
    assert new.last.job_id == last


def test_a_report_on_nothing_is_empty(past: Past) -> None:
    for kind in stored_tests.KINDS:
        assert past.names(kind) == []


def test_results_go_with_their_retention_and_their_user(past: Past) -> None:
    old = past.job({"a": "passed"})
    new = past.job({"a": "passed", "b": "passed"})
    assert past.store.tests.prune(NOON + dt.timedelta(hours=1.5)) == 1
    assert past.store.tests.list(old) == []
    assert len(past.store.tests.list(new)) == 2
    assert past.store.tests.prune(NOON + dt.timedelta(hours=1.5)) == 0
    past.store.jobs.delete_of_user("ann")
    assert past.store.tests.list(new) == []


def test_a_report_over_many_runs_is_quick(store: Store) -> None:
    """20 runs of 2,000 tests."""
    past = Past(store)
    for number in range(20):
        job_id = past.job({})
        rows = [
            (job_id, f"tests/test_{n % 50}.py::test_{n}", 1 + 4 * (n % 97 == number), n, 0, 0)
            for n in range(2000)
        ]
        with store._database.write(durable=False):
            store._database.execute_many(stored_tests._ADD, rows)
    began = time.thread_time()
    runs = store.tests.runs("ann")
    for kind in stored_tests.KINDS:
        store.tests.report(runs, kind)
    assert len(runs) == 20
    assert time.thread_time() - began < 60, "less than a second alone; without its index, minutes"
