"""Runs in the store: numbers, steps that are written whole or not at all, and the feed of a run."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.pipelines import plan_of, planned
from support.store import add_user

from ci_runner.errors import Conflict, LeaseLost, NotFound
from ci_runner.model.job import JobEvent, utcnow
from ci_runner.model.verdict import Verdict, ran
from ci_runner.pipelines.run import Run, job_of
from ci_runner.pipelines.scheduler import Drop, Halt, Start, Step
from ci_runner.store import Store
from ci_runner.store.run_events import FeedItem

PLAN = plan_of(planned("a", "x"), planned("b", "x", needs=("a",)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "runner.db")
    add_user(store)
    yield store
    store.close()


@pytest.fixture
def epoch(store: Store) -> int:
    return store.lease.acquire("test")


def submit(store: Store, plan: Any = PLAN, **more: Any) -> Run:
    run = Run(str(uuid.uuid4()), "ann", plan, "0" * 64)
    return store.runs.create(run, **more)


def take(store: Store, run: Run, epoch: int, *names: str) -> bool:
    step = Step(tuple(Start(name) for name in names))
    jobs = [job_of(run, name, 0, {}, utcnow()) for name in names]
    return store.runs.advance(run.id, epoch, run.version, step, jobs)


def now(store: Store, run: Run) -> Run:
    found = store.runs.get(run.id)
    assert found is not None
    return found


def test_a_run_is_stored_as_it_was_made(store: Store) -> None:
    run = submit(store, secrets={"TOKEN": "x"})
    assert store.runs.get(run.id) == run
    assert (run.number, run.status, run.plan, run.version) == (1, "queued", PLAN, 1)
    assert store.runs.get(run.id, "bob") is None
    assert store.runs.by_number("ann", "default", 1) == run
    assert store.runs.secrets(run.id) == {"TOKEN": "x"}
    assert list(store.runs.facts(run.id)) == ["a", "b"]
    with pytest.raises(NotFound):
        store.runs.create(replace(run, id="other", user_id="nobody"))


def test_numbers_are_given_once_whoever_asks_at_the_same_moment(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: submit(store), range(24)))
    assert sorted(run.number for run in runs) == list(range(1, 25))
    assert submit(store, replace(PLAN, pipeline="other")).number == 1
    add_user(store, "bob")
    other = store.runs.create(Run("bobs", "bob", PLAN, "0" * 64))
    assert other.number == 1


@pytest.mark.defect(9)
def test_the_rules_of_the_schema_hold_in_the_database_itself(store: Store) -> None:
    """The reference system had them in a file that nothing ever read."""
    run = submit(store)
    columns = (
        "id, user_id, pipeline, number, plan, workspace, options, status, submitted_at, version, last_seq"
    )
    copy = f"INSERT INTO runs ({columns}) SELECT {{}} FROM runs"
    with contextlib.closing(sqlite3.connect(store.path)) as database:
        with pytest.raises(sqlite3.IntegrityError, match=r"UNIQUE .*runs\.number"):
            database.execute(copy.format(columns.replace("id,", "'another',", 1)))
        with pytest.raises(sqlite3.IntegrityError, match=r"NOT NULL .*runs\.workspace"):
            database.execute(copy.format(columns.replace("workspace", "NULL")))
        again = "INSERT INTO run_jobs SELECT * FROM run_jobs LIMIT 1"
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            database.execute(again)
    assert list(store.runs.facts(run.id)) == ["a", "b"]


def test_a_step_is_written_once_however_often_it_is_decided(store: Store, epoch: int) -> None:
    run = submit(store)
    assert take(store, run, epoch, "a")
    assert not take(store, run, epoch, "a"), "the run has changed since"
    with pytest.raises(Conflict):
        take(store, now(store, run), epoch, "a")
    assert [job.planned for job in store.runs.executions(run.id)] == ["a"]
    with pytest.raises(LeaseLost):
        take(store, now(store, run), epoch - 1, "b")


def test_what_becomes_of_its_jobs_changes_a_run(store: Store, epoch: int) -> None:
    run = submit(store)
    take(store, run, epoch, "a")
    job = store.runs.executions(run.id)[0]
    before = now(store, run).version
    moment = utcnow()
    store.jobs.advance(job.id, epoch, "queued", phase="preparing", status="running", start_time=moment)
    started = now(store, run)
    assert (started.status, started.start_time) == ("running", moment)
    assert started.version > before
    store.jobs.finish(job.id, epoch, ran(0))
    assert now(store, run).version > started.version
    assert store.runs.open_versions() == {run.id: now(store, run).version}


@pytest.mark.defect(10)
@pytest.mark.case("B70")
def test_dropping_halting_and_ending(store: Store, epoch: int) -> None:
    run = submit(store, secrets={"TOKEN": "x"})
    take(store, run, epoch, "a")
    job = store.runs.executions(run.id)[0]
    halt = Step(drops=(Drop("b", "why"),), halts=(Halt(job.id, "the run", waiting_only=True),))
    assert store.runs.advance(run.id, epoch, now(store, run).version, halt)
    stored = store.jobs.get(job.id)
    assert stored is not None
    assert stored.cancelled_by == "the run"
    assert store.runs.facts(run.id)["b"].dropped == "why"
    over = Step(outcome=Verdict("cancelled", None, None, "gone"))
    assert store.runs.advance(run.id, epoch, now(store, run).version, over)
    assert (now(store, run).status, now(store, run).reason) == ("cancelled", "gone")
    assert store.runs.secrets(run.id) == {}, "secrets go with the run's end"
    assert not store.runs.advance(run.id, epoch, now(store, run).version, halt), "an end is final"
    assert store.runs.open_versions() == {}


def test_only_what_waits_is_halted_where_that_is_asked(store: Store, epoch: int) -> None:
    run = submit(store)
    take(store, run, epoch, "a")
    job = store.runs.executions(run.id)[0]
    store.jobs.advance(job.id, epoch, "queued", phase="preparing", status="running", start_time=utcnow())
    store.runs.advance(
        run.id, epoch, now(store, run).version, Step(halts=(Halt(job.id, "x", waiting_only=True),))
    )
    found = store.jobs.get(job.id)
    assert found is not None
    assert found.cancel_requested_at is None


def test_cancelling_is_asked_once(store: Store, epoch: int) -> None:
    run = submit(store)
    first = store.runs.request_cancel(run.id, "ann")
    assert (first.cancelled_by, store.runs.request_cancel(run.id, "bob").cancelled_by) == ("ann", "ann")
    for stage, job in (("nine", None), (None, "z")):
        with pytest.raises(NotFound):
            store.runs.request_cancel(run.id, "ann", stage=stage, job=job)
    store.runs.request_cancel(run.id, "ann", job="b")
    assert store.runs.facts(run.id)["b"].cancelled_by == "ann"
    store.runs.advance(run.id, epoch, now(store, run).version, Step(outcome=Verdict("completed", True)))
    with pytest.raises(Conflict):
        store.runs.request_cancel(run.id, "ann")


def test_the_feed_has_every_event_once_in_one_order(store: Store, epoch: int) -> None:
    run = submit(store)
    take(store, run, epoch, "a", "b")
    first, second = (
        job.id for job in sorted(store.runs.executions(run.id), key=lambda job: str(job.planned))
    )
    for number in range(5):
        log = [
            JobEvent("log", f"{name}{number}{part}", fields={"stream": "stdout"})
            for part in "xyz"
            for name in "n"
        ]
        store.events.append(first if number % 2 else second, epoch, log)
    store.jobs.finish(first, epoch, ran(0))
    found = store.feed.after(run.id, 0)
    assert [item.seq for item in found] == list(range(1, len(found) + 1))
    assert [item.to_dict()["type"] for item in found[:2]] == ["run_job", "run_job"]
    assert [item.planned for item in found[2:8]] == ["b", "b", "b", "a", "a", "a"]
    assert found[-1].event.type == "complete"
    for seq in range(len(found) + 1):
        assert store.feed.after(run.id, seq) == found[seq:]
    pieces: list[FeedItem] = []
    while more := store.feed.after(run.id, pieces[-1].seq if pieces else 0, limit=2, max_bytes=1):
        pieces += more
    assert pieces == found
    assert store.runs.newest([run.id, "unknown"]) == {run.id: found[-1].seq}


def test_pruned_logs_leave_the_rest_of_the_feed(store: Store, epoch: int) -> None:
    run = submit(store)
    take(store, run, epoch, "a")
    job = store.runs.executions(run.id)[0]
    store.events.append(job.id, epoch, [JobEvent("log", "x"), JobEvent("state", fields={"phase": "testing"})])
    store.jobs.finish(job.id, epoch, ran(0))
    store.events.prune(utcnow())
    assert [item.event.type for item in store.feed.after(run.id, 0)] == ["run_job", "state", "complete"]


def test_the_runs_of_a_user_go_with_the_user(store: Store, epoch: int) -> None:
    run, over = submit(store), submit(store)
    store.runs.advance(over.id, epoch, over.version, Step(outcome=Verdict("completed", True)))
    store.users.delete("ann")
    assert store.runs.get(over.id) is None
    assert now(store, run).cancelled_by == "an administrator"
    store.users.purge("ann")
    assert store.runs.get(run.id) is None


def test_contents_of_an_open_run_are_kept(store: Store) -> None:
    submit(store)
    assert store.runs.open_workspaces() == {"0" * 64}
    store.blobs.grant("ann", ["1" * 64], utcnow())
    assert store.blobs.unreferenced(utcnow()) == []
