"""The store's jobs on a real database file: created, queued, listed, cancelled, advanced, finished."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.store import LOG, NOON, add_job, add_user, at, reread
from support.waiting import wait_until

from ci_runner.errors import Conflict, NotFound
from ci_runner.model import verdict as states
from ci_runner.model.job import Job, JobEvent
from ci_runner.model.job_options import JobOptions
from ci_runner.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "runner.db")
    yield opened
    opened.close()


@pytest.fixture
def epoch(store: Store) -> int:
    return store.lease.acquire("this test")


class TestCreate:
    def test_the_same_key_and_body_give_the_first_job(self, store: Store) -> None:
        user = add_user(store)
        first = store.jobs.create(Job("first", user_id=user.id), "key", "digest")
        again = store.jobs.create(Job("second", user_id=user.id, name="ignored"), "key", "digest")
        assert again == first
        assert [job.id for job in store.jobs.list()] == ["first"]

    def test_the_same_key_with_another_body_is_a_conflict(self, store: Store) -> None:
        user = add_user(store)
        store.jobs.create(Job("first", user_id=user.id), "key", "digest")
        with pytest.raises(Conflict, match="Idempotency-Key"):
            store.jobs.create(Job("second", user_id=user.id), "key", "another")
        assert store.jobs.get("second") is None

    def test_a_key_belongs_to_its_user(self, store: Store) -> None:
        for name in ("ann", "bob"):
            add_user(store, name)
            assert store.jobs.create(Job(f"of-{name}", user_id=name), "key", "digest").id == f"of-{name}"

    def test_a_repeated_submission_gets_a_job_that_is_over_too(self, store: Store, epoch: int) -> None:
        user = add_user(store)
        store.jobs.create(Job("first", user_id=user.id), "key", "digest")
        store.jobs.finish("first", epoch, states.ran(0))
        assert store.jobs.create(Job("second", user_id=user.id), "key", "digest").status == "completed"

    def test_racing_submissions_with_one_key_make_one_job(self, store: Store) -> None:
        add_user(store)
        made: list[str] = []
        start = threading.Barrier(8)

        def submit(number: int) -> None:
            start.wait()
            made.append(store.jobs.create(Job(f"job-{number}", user_id="ann"), "key", "digest").id)
            store.release()

        threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(made) == 8
        assert len(set(made)) == 1
        assert len(store.jobs.list()) == 1


class TestQueue:
    def test_positions_follow_priority_and_turns(self, store: Store) -> None:
        for name in ("ann", "bob"):
            add_user(store, name)
        jobs = [add_job(store, "ann", submitted_at=at(n)) for n in range(3)]
        jobs.append(add_job(store, "bob", submitted_at=at(9)))
        jobs.append(add_job(store, "ann", submitted_at=at(10), priority="high"))
        assert [reread(store, job).queue_position for job in jobs] == [3, 4, 5, 2, 1]
        assert [job.queue_position for job in store.jobs.list("ann")] == [1, 5, 4, 3]
        assert store.jobs.count_waiting("ann") == 4

    def test_jobs_that_are_taken_up_over_or_being_cancelled_have_no_position(
        self, store: Store, epoch: int
    ) -> None:
        add_user(store)
        jobs = [add_job(store, "ann", submitted_at=at(n)) for n in range(4)]
        store.jobs.advance(
            jobs[0].id, epoch, "queued", status="running", phase="preparing", start_time=at(20)
        )
        store.jobs.finish(jobs[1].id, epoch, states.cancelled("ann"))
        store.jobs.request_cancel(jobs[2].id, "ann")
        assert [reread(store, job).queue_position for job in jobs] == [None, None, None, 1]
        assert store.jobs.served() == {"ann": at(20)}

    def test_a_long_queue_is_not_computed_for_each_summary(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add_user(store)
        jobs = [add_job(store, "ann", submitted_at=at(n)) for n in range(3)]
        compute, computed = store.jobs.queue, []

        def slow() -> dict[str, int]:
            computed.append(1)
            deadline = time.monotonic() + 0.2
            while time.monotonic() < deadline:
                pass
            return compute()

        monkeypatch.setattr(store.jobs, "queue", slow)
        assert [reread(store, job).queue_position for job in jobs * 5] == [1, 2, 3] * 5
        assert len(computed) == 1
        store.jobs.request_cancel(jobs[0].id, "ann")
        assert reread(store, jobs[0]).queue_position is None
        new = add_job(store, "ann", submitted_at=at(3))
        wait_until(lambda: reread(store, new).queue_position == 3, 10, what="the place of a new job")
        assert len(computed) == 2


class TestList:
    def test_pages_hold_every_job_once(self, store: Store) -> None:
        add_user(store)
        jobs = [add_job(store, "ann", submitted_at=at(n // 3)) for n in range(10)]
        seen: list[str] = []
        while page := store.jobs.list("ann", limit=3, before=seen[-1] if seen else None):
            seen += [job.id for job in page]
        assert len(seen) == 10
        assert set(seen) == {job.id for job in jobs}
        assert seen == [job.id for job in store.jobs.list("ann")]

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({}, ["c3", "b2", "a1"]),
            ({"status": "queued"}, ["c3", "b2"]),
            ({"status": "failed"}, ["a1"]),
            ({"since": at(2)}, ["c3", "b2"]),
            ({"query": "b2"}, ["b2"]),
            ({"query": "B"}, ["b2"]),
            ({"query": "NIGHT"}, ["c3", "a1"]),
            ({"query": "100%"}, ["a1"]),
            ({"query": "_"}, []),
            ({"query": "2"}, []),
            ({"query": "\ud800\0"}, []),
            ({"limit": 0}, []),
            ({"limit": 2}, ["c3", "b2"]),
            ({"before": "b2"}, ["a1"]),
        ],
    )
    def test_filters(self, store: Store, epoch: int, filters: Any, expected: list[str]) -> None:
        for job_id, second, name in (("a1", 1, "Nightly 100%"), ("b2", 2, None), ("c3", 3, "overnight")):
            store.jobs.create(Job(job_id, submitted_at=at(second), name=name))
        store.jobs.finish("a1", epoch, states.failed("x"))
        assert [job.id for job in store.jobs.list(**filters)] == expected

    def test_a_page_behind_somebody_elses_job_is_refused(self, store: Store) -> None:
        add_user(store)
        add_user(store, "bob")
        job = add_job(store, "bob")
        for before in (job.id, "nothing"):
            with pytest.raises(NotFound):
                store.jobs.list("ann", before=before)


class TestCancel:
    def test_the_first_request_is_remembered(self, store: Store) -> None:
        job = add_job(store)
        first = store.jobs.request_cancel(job.id, "ann")
        assert first.cancel_requested_at is not None
        assert store.jobs.request_cancel(job.id, "bob") == first
        assert (first.status, first.cancelled_by) == ("queued", "ann")

    def test_a_cancelled_job_can_be_cancelled_again(self, store: Store, epoch: int) -> None:
        job = add_job(store)
        store.jobs.finish(job.id, epoch, states.cancelled("ann"))
        assert store.jobs.request_cancel(job.id, "bob").status == "cancelled"

    @pytest.mark.parametrize("verdict", [states.ran(0), states.ran(1), states.failed("x")])
    def test_a_job_that_ended_otherwise_cannot(
        self, store: Store, epoch: int, verdict: states.Verdict
    ) -> None:
        job = add_job(store)
        store.jobs.finish(job.id, epoch, verdict)
        with pytest.raises(Conflict, match=f"already {verdict.status}"):
            store.jobs.request_cancel(job.id, "ann")
        assert reread(store, job).cancel_requested_at is None

    def test_an_unknown_job_is_not_found(self, store: Store) -> None:
        with pytest.raises(NotFound):
            store.jobs.request_cancel("nothing", "ann")


class TestAdvance:
    def test_fields_and_events_change_together(self, store: Store, epoch: int) -> None:
        job = add_job(store)
        moved = store.jobs.advance(
            job.id,
            epoch,
            "queued",
            events=[JobEvent("state", fields={"phase": "preparing"})],
            status="running",
            phase="preparing",
            start_time=at(1),
            attempt=1,
            counts={"passed": 2},
        )
        now = reread(store, job)
        assert moved
        assert (now.status, now.phase, now.start_time, now.attempt) == ("running", "preparing", at(1), 1)
        assert now.counts == {"passed": 2}
        assert now.phase_since is not None
        assert [(event.seq, event.type) for event in store.events.after(job.id, 0)] == [(1, "state")]

    def test_only_from_the_expected_phases(self, store: Store, epoch: int) -> None:
        job = add_job(store)
        assert not store.jobs.advance(job.id, epoch, ("preparing", "starting"), events=[LOG], phase="testing")
        assert reread(store, job) == replace(job, queue_position=1)
        assert store.events.after(job.id, 0) == []
        assert store.jobs.advance(job.id, epoch, ("queued", "preparing"), phase="testing")

    def test_not_when_the_job_is_over_or_unknown(self, store: Store, epoch: int) -> None:
        job = add_job(store)
        store.jobs.finish(job.id, epoch, states.ran(0))
        before = reread(store, job)
        assert not store.jobs.advance(job.id, epoch, "finishing", container_id="x")
        assert not store.jobs.advance("nothing", epoch, "queued", container_id="x")
        assert reread(store, job) == before

    @pytest.mark.parametrize(
        "change",
        [
            {"end_time": NOON},
            {"id": "x"},
            {"last_seq": 9},
            {"status": "failed"},
            {"success": True},
            {"zzz": 1},
        ],
    )
    def test_what_has_another_writer_cannot_be_changed(self, store: Store, epoch: int, change: Any) -> None:
        job = add_job(store)
        with pytest.raises(TypeError):
            store.jobs.advance(job.id, epoch, "queued", **change)


class TestFinish:
    @pytest.mark.parametrize(
        ("verdict", "success"),
        [
            (states.ran(0), True),
            (states.ran(1), False),
            (states.failed("boom\ud800"), False),
            (states.failed("late", timed_out=True), False),
            (states.cancelled("ann"), False),
        ],
    )
    def test_outcome_and_last_event_are_one(
        self, store: Store, epoch: int, verdict: states.Verdict, success: bool
    ) -> None:
        job = add_job(store)
        assert store.jobs.finish(job.id, epoch, verdict, events=[LOG])
        over = reread(store, job)
        assert (over.status, over.success, over.exit_code) == (
            verdict.status,
            verdict.success,
            verdict.exit_code,
        )
        assert over.reason == (verdict.reason and verdict.reason.replace("\ud800", "?"))
        assert (over.phase, over.is_over, over.queue_position) == ("finishing", True, None)
        log, complete = store.events.after(job.id, 0)
        assert (log.type, log.seq, complete.seq, over.last_seq) == ("log", 1, 2, 2)
        assert (complete.type, complete.success, complete.timestamp) == ("complete", success, over.end_time)
        assert complete.fields == verdict.complete_fields()

    def test_only_the_first_verdict_counts(self, store: Store, epoch: int) -> None:
        job = add_job(store)
        assert store.jobs.finish(job.id, epoch, states.failed("first"))
        before = reread(store, job)
        assert not store.jobs.finish(job.id, epoch, states.ran(0), events=[LOG])
        assert not store.jobs.finish("nothing", epoch, states.ran(0))
        assert reread(store, job) == before
        assert [event.type for event in store.events.after(job.id, 0)] == ["complete"]

    def test_a_verdict_must_be_an_end(self, store: Store, epoch: int) -> None:
        with pytest.raises(ValueError, match="running"):
            store.jobs.finish(add_job(store).id, epoch, states.Verdict("running", None))

    def test_open_and_uncleaned_follow_a_job_to_its_end(self, store: Store, epoch: int) -> None:
        job = add_job(store, options=JobOptions.from_dict({"args": ["-v"]}))
        store.jobs.cleaned(job.id, epoch)
        assert store.jobs.open() == [job]
        assert store.jobs.uncleaned() == []
        store.jobs.finish(job.id, epoch, states.ran(0))
        assert store.jobs.open() == []
        assert [item.id for item in store.jobs.uncleaned()] == [job.id]
        store.jobs.cleaned(job.id, epoch)
        cleaned_at = reread(store, job).cleaned_at
        store.jobs.cleaned(job.id, epoch)
        assert store.jobs.uncleaned() == []
        assert reread(store, job).cleaned_at == cleaned_at is not None


def test_options_are_stored_as_they_came_and_read_as_what_they_mean(store: Store) -> None:
    raw = {"protocol": 1, "args": ["-v"], "secrets": ["TOKEN"], "of_a_later_version": {"a": 1}}
    job = add_job(store, options=JobOptions.from_dict(raw))
    [(text,)] = store._database.sql("SELECT options FROM jobs WHERE id = ?", (job.id,))
    assert text == '{"protocol":1,"args":["-v"],"secrets":["TOKEN"],"of_a_later_version":{"a":1}}'
    for found in (job, reread(store, job), *store.jobs.open(), *store.jobs.list()):
        assert found.options == JobOptions.from_dict(raw)
        assert (found.options.submitted.args, found.options.secrets) == (("-v",), ("TOKEN",))


def test_options_are_parsed_once_until_the_row_changes(
    store: Store, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = (add_job(store, options=JobOptions.from_dict({"args": [name]})) for name in ("-v", "-x"))
    parsed: list[object] = []
    parse = JobOptions.from_dict

    def counted(raw: object) -> JobOptions:
        parsed.append(raw)
        return parse(raw)

    monkeypatch.setattr(JobOptions, "from_dict", staticmethod(counted))
    for _ in range(3):
        assert [found.options.submitted.args for found in store.jobs.open()] == [("-v",), ("-x",)]
    assert parsed == [{"args": ["-v"]}, {"args": ["-x"]}]
    assert store.jobs.advance(job.id, epoch, "queued", phase="preparing")
    del parsed[:]
    for _ in range(3):
        store.jobs.open()
    assert parsed == [{"args": ["-v"]}]


def test_a_row_whose_options_cannot_be_read_hides_no_other(store: Store) -> None:
    job, other = add_job(store), add_job(store, options=JobOptions.from_dict({"args": ["-v"]}))
    with store._database.write():
        store._database.sql("UPDATE jobs SET options = ? WHERE id = ?", ('{"timeout": "soon"}', job.id))
    assert {found.id: found.options.problem for found in store.jobs.open()} == {
        job.id: "options.timeout: must be a number above 0",
        other.id: None,
    }
    assert {found.id for found in store.jobs.list()} == {job.id, other.id}
