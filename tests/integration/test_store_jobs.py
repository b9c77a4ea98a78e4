"""The store's jobs, events, lease, users and grants, on a real database file."""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci_runner import states
from ci_runner.errors import Conflict, LeaseLost, NotFound
from ci_runner.models import APIKey, Job, JobEvent, User
from ci_runner.store import SpoolPosition, Store, StoreError

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
LOG = JobEvent("log", "hello\n", fields={"stream": "stdout"})


def at(second: float) -> dt.datetime:
    return NOON + dt.timedelta(seconds=second)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "runner.db")
    yield opened
    opened.close()


@pytest.fixture
def epoch(store: Store) -> int:
    return store.lease.acquire("this test")


def add_user(store: Store, name: str = "ann") -> User:
    return store.users.create(User(name, name.title(), f"{name}@example.org", NOON))


def add_job(store: Store, user: str | None = None, **fields: Any) -> Job:
    return store.jobs.create(Job(str(uuid.uuid4()), user_id=user, **fields))


def reread(store: Store, job: Job) -> Job:
    found = store.jobs.get(job.id)
    assert found is not None
    return found


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
            job.id, epoch, "queued", events=[JobEvent("state", fields={"phase": "preparing"})],
            status="running", phase="preparing", start_time=at(1), attempt=1, counts={"passed": 2},
        )  # fmt: skip
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
        job = add_job(store, options={"args": ["-v"]})
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


class TestEvents:
    def test_events_and_offsets_are_stored_together(self, store: Store, epoch: int) -> None:
        job = add_job(store)
        assert store.events.position(job.id, 1) == SpoolPosition()
        position = SpoolPosition(frames=10, stdout=6)
        assert store.events.append(job.id, epoch, [LOG, LOG], spool=position, attempt=1) == 2
        assert store.events.position(job.id, 1) == position
        assert store.events.position(job.id, 2) == SpoolPosition()
        assert store.events.append(job.id, epoch, [], spool=SpoolPosition(11, 6), attempt=1) == 2
        assert store.events.position(job.id, 1) == SpoolPosition(11, 6)

    def test_bytes_that_are_stored_already_are_not_stored_again(self, store: Store, epoch: int) -> None:
        job = add_job(store)
        start, end = SpoolPosition(), SpoolPosition(stdout=6)
        assert store.events.append(job.id, epoch, [LOG], spool=end, attempt=1, expected=start) == 1
        assert store.events.append(job.id, epoch, [LOG], spool=end, attempt=1, expected=start) == 1
        assert len(store.events.after(job.id, 0)) == 1
        assert (
            store.events.append(job.id, epoch, [LOG], spool=SpoolPosition(stdout=12), attempt=1, expected=end)
            == 2
        )

    def test_nothing_follows_the_complete_event(self, store: Store, epoch: int) -> None:
        job = add_job(store)
        store.jobs.finish(job.id, epoch, states.ran(0))
        assert store.events.append(job.id, epoch, [LOG], spool=SpoolPosition(1), attempt=1) == 1
        assert [event.type for event in store.events.after(job.id, 0)] == ["complete"]
        assert store.events.position(job.id, 1) == SpoolPosition()

    def test_an_unknown_job_is_not_found(self, store: Store, epoch: int) -> None:
        with pytest.raises(NotFound):
            store.events.append("nothing", epoch, [LOG])

    def test_log_bytes_count_the_text_in_utf_8(self, store: Store, epoch: int) -> None:
        job = add_job(store)
        store.events.append(job.id, epoch, [JobEvent("log", "häh\ud800"), JobEvent("state", "not log"), LOG])
        assert reread(store, job).log_bytes == 4 + 3 + 6

    def test_reading_is_bounded_by_number_and_size(self, store: Store, epoch: int) -> None:
        job = add_job(store)
        events = [JobEvent("log", "x" * 1000) for _ in range(1200)]
        assert store.events.append(job.id, epoch, events) == 1200
        assert len(store.events.after(job.id, 0)) == 500
        assert len(store.events.after(job.id, 0, limit=7)) == 7
        assert len(store.events.after(job.id, 0, max_bytes=3000)) == 3
        assert len(store.events.after(job.id, 0, max_bytes=1)) == 1
        assert [event.seq for event in store.events.after(job.id, 1198)] == [1199, 1200]
        assert store.events.after(job.id, 1200) == []
        assert store.events.after("nothing", 0) == []

    def test_pruning_takes_the_logs_of_jobs_that_were_over_long_ago(self, store: Store, epoch: int) -> None:
        old, young, running = (add_job(store) for _ in range(3))
        for job in (old, young, running):
            store.events.append(job.id, epoch, [LOG, JobEvent("state", fields={"phase": "testing"}), LOG])
        store.jobs.finish(old.id, epoch, states.ran(1), end_time=at(0))
        store.jobs.finish(young.id, epoch, states.ran(1), end_time=at(10))
        assert store.events.prune(at(5)) == 2
        assert store.events.prune(at(5)) == 0
        assert [event.type for event in store.events.after(old.id, 0)] == ["state", "complete"]
        assert reread(store, old).log_bytes == 0
        assert len(store.events.after(young.id, 0)) == 4
        assert len(store.events.after(running.id, 0)) == 3


class TestLease:
    def test_every_holder_gets_a_higher_epoch(self, store: Store) -> None:
        assert store.lease.read().epoch == 0
        assert [store.lease.acquire(name) for name in ("a", "b")] == [1, 2]
        state = store.lease.read()
        assert (state.epoch, state.holder) == (2, "b")
        assert state.heartbeat_at == state.acquired_at is not None

    def test_the_heartbeat_is_the_present_holders(self, store: Store, epoch: int) -> None:
        before = store.lease.read().heartbeat_at
        store.lease.heartbeat(epoch)
        after = store.lease.read().heartbeat_at
        assert before is not None
        assert after is not None
        assert after > before
        store.lease.acquire("another")
        with pytest.raises(LeaseLost):
            store.lease.heartbeat(epoch)

    def test_a_stale_controller_writes_nothing(self, store: Store, epoch: int) -> None:
        job = add_job(store)
        over = add_job(store)
        store.jobs.finish(over.id, epoch, states.ran(0))
        store.lease.acquire("another")
        before = store.jobs.list()
        for write in (
            lambda: store.jobs.advance(job.id, epoch, "queued", phase="preparing"),
            lambda: store.jobs.finish(job.id, epoch, states.ran(0)),
            lambda: store.jobs.cleaned(over.id, epoch),
            lambda: store.events.append(job.id, epoch, [LOG], spool=SpoolPosition(1), attempt=1),
        ):
            with pytest.raises(LeaseLost):
                write()
        assert store.jobs.list() == before
        assert store.events.after(job.id, 0) == []
        assert store.events.position(job.id, 1) == SpoolPosition()


class TestUsers:
    def test_a_deleted_user_is_gone_at_once_and_its_running_jobs_are_cancelled(
        self, store: Store, epoch: int
    ) -> None:
        user = add_user(store)
        add_user(store, "bob")
        others = add_job(store, "bob")
        over, running = add_job(store, user.id), add_job(store, user.id)
        store.events.append(over.id, epoch, [LOG])
        store.jobs.finish(over.id, epoch, states.ran(0))
        store.keys.create(APIKey("AAAAAAAA", user.id, "0" * 64, "k", NOON))
        store.blobs.grant(user.id, ["a" * 64])
        deletion = store.users.delete(user.id)
        assert [job.id for job in deletion.deleted] == [over.id]
        assert (deletion.user, deletion.cancelling) == (user, 1)
        assert store.users.get(user.id) is store.users.by_email(user.email) is None
        assert store.keys.by_hash("0" * 64) is None
        assert [item.id for item in store.users.list()] == ["bob"]
        assert store.jobs.get(over.id) is None
        assert store.events.after(over.id, 0) == []
        assert store.blobs.granted(user.id, ["a" * 64]) == set()
        assert reread(store, running).cancel_requested_at is not None
        assert reread(store, others).cancel_requested_at is None
        with pytest.raises(NotFound):
            store.users.delete(user.id)
        with pytest.raises(NotFound):
            store.users.set_active(user.id, True)
        with pytest.raises(NotFound):
            add_job(store, user.id)

    def test_the_tombstone_goes_when_nothing_is_left(self, store: Store, epoch: int) -> None:
        user = add_user(store)
        job = add_job(store, user.id)
        with pytest.raises(Conflict, match="not deleted"):
            store.users.purge(user.id)
        store.users.delete(user.id)
        assert store.users.deleted() == [user.id]
        assert not store.users.purge(user.id)
        store.jobs.finish(job.id, epoch, states.cancelled("an administrator"))
        assert not store.users.purge(user.id)
        store.jobs.cleaned(job.id, epoch)
        assert store.users.purge(user.id)
        assert store.users.purge(user.id)
        assert store.users.deleted() == []
        assert store.jobs.get(job.id) is None

    def test_an_address_is_free_again_after_its_user_is_deleted(self, store: Store) -> None:
        for name in ("first", "second", "third"):
            store.users.create(User(name, "Ann", "ann@example.org", NOON))
            store.users.delete(name)
        assert store.users.deleted() == ["first", "second", "third"]

    def test_the_priority_cap_can_be_changed(self, store: Store) -> None:
        user = add_user(store)
        assert store.users.set_cap(user.id, "high") == replace(user, priority_cap="high")
        with pytest.raises(NotFound):
            store.users.set_cap("nobody", "high")


class TestKeys:
    def test_the_last_use_never_goes_back(self, store: Store) -> None:
        add_user(store)
        store.keys.create(APIKey("AAAAAAAA", "ann", "0" * 64, None, NOON, expires_at=at(99)))
        for second in (5, 3):
            store.keys.touch("AAAAAAAA", at(second))
        key = store.keys.get("AAAAAAAA")
        assert key is not None
        assert (key.last_used_at, key.expires_at) == (at(5), at(99))


class TestBlobs:
    def test_a_grant_is_per_user(self, store: Store) -> None:
        add_user(store)
        add_user(store, "bob")
        digests = [f"{number:064x}" for number in range(1000)]
        store.blobs.grant("ann", [*digests, *digests])
        store.blobs.grant("ann", [])
        assert store.blobs.granted("ann", [*digests, "f" * 64]) == set(digests)
        assert store.blobs.granted("bob", digests) == set()
        assert store.blobs.known([*digests, "f" * 64]) == set(digests)

    def test_what_nobody_used_for_long_can_be_forgotten(self, store: Store) -> None:
        add_user(store)
        add_user(store, "bob")
        store.blobs.grant("ann", ["old", "shared", "renewed"], at(0))
        store.blobs.grant("bob", ["shared"], at(10_000))
        assert set(store.blobs.unreferenced(at(5000))) == {"old", "renewed"}
        store.blobs.grant("ann", ["renewed"], at(10_000))
        assert store.blobs.forget(["old", "renewed", "shared"], at(5000)) == {"old"}
        assert store.blobs.known(["old", "renewed", "shared"]) == {"renewed", "shared"}
        assert store.blobs.granted("ann", ["shared"]) == set(), "what somebody else keeps is still given up"

    def test_an_open_job_keeps_what_was_granted_for_it(self, store: Store, epoch: int) -> None:
        add_user(store)
        store.blobs.grant("ann", ["mine"], at(0))
        job = add_job(store, "ann", submitted_at=at(60))
        assert store.blobs.unreferenced(at(100_000)) == []
        assert store.blobs.forget(["mine"], at(100_000)) == set()
        store.jobs.finish(job.id, epoch, states.ran(0))
        assert store.blobs.unreferenced(at(100_000)) == ["mine"]


class TestDoorbell:
    def test_it_rings_once_for_writes_of_this_and_other_stores(self, store: Store) -> None:
        bell = store.doorbell()
        assert not bell.rang()
        add_job(store)
        assert bell.rang()
        assert not bell.rang()
        other = Store.open(store.path)
        add_job(other)
        assert bell.rang()
        other.close()
        store.jobs.list()
        assert not bell.rang()
        bell.close()
        with pytest.raises(StoreError, match="closed"):
            bell.rang()
