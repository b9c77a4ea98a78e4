"""What a controller process knows of its jobs: written by many threads, read by one, and forgotten in time."""

from __future__ import annotations

import datetime as dt
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.controller import PREPARED

from ci_runner.controller.process_state import ProcessState, StateSnapshot

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc)
WRITERS = 8
JOBS = [f"job-{number}" for number in range(50)]


@pytest.fixture
def state() -> ProcessState:
    return ProcessState()


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_nothing_is_known_at_first(state: ProcessState) -> None:
    assert state.snapshot({"a"}) == StateSnapshot()
    assert not state.is_signalled("a")
    assert not state.is_collecting("a")
    assert state.prepared("a") is None


def test_byte_code_is_made_for_one_job_of_a_user_at_a_time(state: ProcessState) -> None:
    assert state.begin_bytecode("ann")
    assert not state.begin_bytecode("ann")
    assert state.begin_bytecode("bob")
    assert state.begin_bytecode(None)
    state.end_bytecode("ann")
    assert state.begin_bytecode("ann")
    assert not state.begin_bytecode("bob")


def test_what_is_set_is_known_until_the_job_is_over(state: ProcessState) -> None:
    state.set_signalled("a")
    state.set_collecting("a")
    state.set_prepared("a", PREPARED)
    state.set_signalled("b")
    assert state.snapshot({"a", "b"}) == StateSnapshot(frozenset({"a", "b"}))
    assert state.is_signalled("a")
    assert state.is_collecting("a")
    assert state.prepared("a") is PREPARED
    state.set_prepared("a", None)
    assert state.prepared("a") is None
    assert state.is_signalled("a")
    state.forget("a")
    assert state.snapshot({"a", "b"}) == StateSnapshot(frozenset({"b"}))
    assert not state.is_collecting("a")


def test_a_snapshot_does_not_change(state: ProcessState) -> None:
    state.set_signalled("a")
    taken = state.snapshot({"a", "b"})
    state.set_signalled("b")
    state.forget("a")
    assert taken == StateSnapshot(frozenset({"a"}))


@pytest.mark.parametrize(
    "write",
    [
        lambda state: state.set_signalled("a"),
        lambda state: state.set_collecting("a"),
        lambda state: state.set_prepared("a", PREPARED),
    ],
    ids=["signalled", "collecting", "prepared"],
)
def test_what_is_written_about_a_job_that_is_over_does_not_stay(
    state: ProcessState, write: Callable[[ProcessState], None]
) -> None:
    """A `Stop` may end after the `Finish` of its job."""
    state.forget("a")
    write(state)
    state.snapshot(set())
    assert state.snapshot({"a"}) == StateSnapshot()
    assert not state.is_signalled("a")
    assert not state.is_collecting("a")
    assert state.prepared("a") is None


def test_no_write_is_lost(state: ProcessState, switching: None) -> None:
    open_jobs = {f"{job_id}-{writer}" for job_id in JOBS for writer in range(WRITERS)}
    done = threading.Event()
    together = threading.Barrier(WRITERS + 1)

    def write(writer: int) -> None:
        together.wait(30)
        for job_id in JOBS:
            mine = f"{job_id}-{writer}"
            state.set_prepared(mine, PREPARED)
            state.set_signalled(mine)
            state.forget(f"{job_id}-gone")

    def read() -> None:
        together.wait(30)
        while not done.is_set():
            state.snapshot(open_jobs)

    with ThreadPoolExecutor(WRITERS + 1) as pool:
        reader = pool.submit(read)
        try:
            for writing in [pool.submit(write, writer) for writer in range(WRITERS)]:
                writing.result(60)
        finally:
            done.set()
        reader.result(60)
    taken = state.snapshot(open_jobs)
    assert taken.signalled == open_jobs
    assert all(state.prepared(job_id) is PREPARED for job_id in open_jobs)
