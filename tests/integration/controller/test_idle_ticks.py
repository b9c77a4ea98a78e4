"""Most ticks find everything as it was: what they skip then, and that nothing which changes is ever missed for it."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.controller import USER, Runner, runner
from support.store import add_user
from support.waiting import wait_until

from ci_runner.controller import decide as reconcile
from ci_runner.controller.engine import Observed
from ci_runner.controller.engines.memory import MemoryEngine, Script
from ci_runner.controller.snapshot import JobRows, Policy, Snapshot
from ci_runner.model.job import Job
from ci_runner.store import Store, StoreError

NOW = dt.datetime(2030, 1, 1, 12, tzinfo=dt.timezone.utc)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "runner.db")
    add_user(opened, "ann")
    opened.jobs.create(Job("a", user_id="ann"))
    yield opened
    opened.close()


@pytest.fixture
def rows(store: Store) -> Iterator[JobRows]:
    made = JobRows(store)
    yield made
    made.close()


def test_rows_are_read_once_until_somebody_commits(rows: JobRows) -> None:
    first, anew = rows.read()
    assert ([job.id for job in first.jobs], anew) == (["a"], True)
    again, anew = rows.read()
    assert (again is first, anew) == (True, False)


def test_a_commit_of_this_thread_of_another_and_of_another_process_is_seen_at_once(
    rows: JobRows, store: Store
) -> None:
    def cancel() -> None:
        store.jobs.request_cancel("a", "ann")
        store.release()

    def elsewhere() -> None:
        code = f"""
from pathlib import Path
from ci_runner.model.job import Job
from ci_runner.store import Store, StoreError
store = Store.open(Path({str(store.path)!r}), migrate=False)
store.jobs.create(Job("c", user_id="ann"))
store.close()
"""
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    def in_a_thread() -> None:
        thread = threading.Thread(target=cancel)
        thread.start()
        thread.join()

    acts: list[tuple[Callable[[], object], str]] = [
        (lambda: store.jobs.create(Job("b", user_id="ann")), "a- b-"),
        (in_a_thread, "a! b-"),
        (elsewhere, "a! b- c-"),
    ]
    rows.read()
    for act, expected in acts:
        act()
        found, anew = rows.read()
        assert anew
        shown = [f"{job.id}{'!' if job.cancel_requested_at else '-'}" for job in found.jobs]
        assert " ".join(shown) == expected
        assert rows.read() == (found, False)


def test_what_could_not_be_read_is_read_the_next_time(
    rows: JobRows, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.read()
    store.jobs.create(Job("b", user_id="ann"))

    def breaks() -> dict[str, dt.datetime]:
        raise StoreError("busy")

    with monkeypatch.context() as patch:
        patch.setattr(store.jobs, "served", breaks)
        with pytest.raises(StoreError):
            rows.read()
    found, anew = rows.read()
    assert ([job.id for job in found.jobs], anew) == (["a", "b"], True)
    rows.forget()
    assert rows.read()[1]


def test_a_row_is_decoded_once_for_as_long_as_it_stays_as_it_is(store: Store) -> None:
    store.jobs.create(Job("b", user_id="ann"))
    a, b = store.jobs.open()
    assert store.jobs.open()[0] is a
    store.jobs.request_cancel("a", "ann")
    changed, same = store.jobs.open()
    assert changed.cancelled_by == "ann"
    assert same is b
    assert store.jobs.get("a") == changed


def test_a_decision_holds_until_a_time_that_it_asked_for() -> None:
    job = Job("a", phase="testing", status="running", phase_since=NOW, container_id="c", attempt=1)
    box = Observed("c", "a-1", "test", "a", 1, "running")
    seen = Snapshot(NOW, Policy(test_timeout=60), (job,), observed=(box,))
    decision = reconcile.decide(seen)
    assert (decision.actions, decision.until) == ((), NOW + dt.timedelta(seconds=60))

    def at(seconds: float, **changes: Any) -> Snapshot:
        fields: dict[str, Any] = {"jobs": seen.jobs, "observed": seen.observed, **changes}
        return Snapshot(NOW + dt.timedelta(seconds=seconds), seen.policy, **fields)

    assert decision.holds_in(at(59.9))
    assert not decision.holds_in(at(60))
    assert [type(action).__name__ for action in reconcile.decide(at(60)).actions] == ["Stop"]
    assert not decision.holds_in(at(1, observed=()))
    assert not decision.holds_in(at(1, over_disk=frozenset({"a"})))
    assert not decision.holds_in(at(1, in_flight={"a": frozenset({"Stop"})}))


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[Runner]:
    engine = MemoryEngine(script=lambda spec: Script(exit_after=None))
    with runner(tmp_path, engine, Policy(concurrency=2, test_timeout=4), interval=0.02) as made:
        yield made
    engine.close()


def test_a_controller_with_nothing_to_do_neither_reads_nor_decides_and_misses_nothing(
    lasting: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job runs and says nothing. Only its time that is up, and signs of life, are anything new."""
    decided: list[Snapshot] = []
    decide = reconcile.decide

    def counting(world: Snapshot) -> reconcile.Decision:
        decided.append(world)
        return decide(world)

    monkeypatch.setattr(reconcile, "decide", counting)
    assert isinstance(lasting.engine, MemoryEngine)
    listed = lasting.engine.calls
    with lasting.controller():
        job_id, waiting = lasting.submit(USER), lasting.submit(USER)
        lasting.until(job_id, lambda job: job.phase == "testing")
        lasting.until(waiting, lambda job: job.phase == "testing")
        wait_until(lambda: len(lasting.events(job_id)) > 1, what="what is to be said of the start")
        before = len(decided), len(listed)
        wait_until(lambda: len(listed) > before[1] + 40, what="forty ticks")
        assert len(decided) - before[0] < 10
        [job, _] = lasting.until_over(job_id, waiting)
    assert (job.status, job.reason) == ("failed", "timed out after 4 s of testing")
