"""The store's events, lease, users, keys, grants and doorbell on a real database file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.store import LOG, NOON, add_job, add_user, at, reread

from ci_runner.errors import Conflict, LeaseLost, NotFound
from ci_runner.model import verdict
from ci_runner.model.job import APIKey, JobEvent, ParsedFields, User
from ci_runner.store import SpoolPosition, Store, StoreError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "runner.db")
    yield opened
    opened.close()


@pytest.fixture
def epoch(store: Store) -> int:
    return store.lease.acquire("this test")


def _told(text: str) -> ParsedFields:
    fields = ParsedFields(json.loads(text))
    fields.text = text
    return fields


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

    def test_what_clients_get_is_what_was_stored(self, store: Store, epoch: int) -> None:
        job = add_job(store)
        nested = {"t": "report", "d": {"sections": [["out", "}}"]], "deep": {"er": {}}}}
        events = [
            JobEvent("report", fields=nested),
            JobEvent("state", fields={"phase": "testing", "note": '"}}', "lone": "\ud800 é\0"}),
            JobEvent('odd"type', fields={"a": {}}),
            JobEvent("log", "ends like fields}}", fields={"stream": "stdout"}),
            JobEvent("log", "no fields"),
            JobEvent("bare"),
            JobEvent("report", fields=_told('{"t":"report", "d":{"lone":"\\ud800","n":[1.50,{}]}}')),
            JobEvent("verdict", success=True, fields={"d": {}}),
            JobEvent("verdict", "text", success=False),
        ]
        store.events.append(job.id, epoch, events)
        found = store.events.sendable(job.id, 0)
        stored = store.events.after(job.id, 0)
        assert len(stored) == len(events)
        assert [(event.seq, event.type) for event in found] == [(event.seq, event.type) for event in stored]
        assert [json.loads(event.text) for event in found] == [event.to_dict() for event in stored]
        assert all(event.text.isascii() and "\n" not in event.text for event in found)
        assert [event.seq for event in store.events.sendable(job.id, 3, limit=2)] == [4, 5]

    def test_bytes_that_are_stored_already_are_not_stored_again(self, store: Store, epoch: int) -> None:
        job = add_job(store)
        start, end = SpoolPosition(), SpoolPosition(stdout=6)
        assert store.events.append(job.id, epoch, [LOG], spool=end, attempt=1, expected=start) == 1
        with pytest.raises(Conflict):
            store.events.append(job.id, epoch, [LOG], spool=end, attempt=1, expected=start)
        assert len(store.events.after(job.id, 0)) == 1
        assert (
            store.events.append(job.id, epoch, [LOG], spool=SpoolPosition(stdout=12), attempt=1, expected=end)
            == 2
        )

    def test_nothing_follows_the_complete_event(self, store: Store, epoch: int) -> None:
        job = add_job(store)
        store.jobs.finish(job.id, epoch, verdict.ran(0))
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

    def test_the_newest_numbers_of_many_jobs_come_at_once(self, store: Store, epoch: int) -> None:
        jobs = [add_job(store) for _ in range(400)]
        store.events.append(jobs[7].id, epoch, [LOG, LOG])
        newest = store.jobs.newest([*(job.id for job in jobs), "nothing"])
        assert newest == {job.id: 2 if job is jobs[7] else 0 for job in jobs}
        assert store.jobs.newest([]) == {}

    def test_pruning_takes_the_logs_of_jobs_that_were_over_long_ago(self, store: Store, epoch: int) -> None:
        old, young, running = (add_job(store) for _ in range(3))
        for job in (old, young, running):
            store.events.append(job.id, epoch, [LOG, JobEvent("state", fields={"phase": "testing"}), LOG])
        store.jobs.finish(old.id, epoch, verdict.ran(1), end_time=at(0))
        store.jobs.finish(young.id, epoch, verdict.ran(1), end_time=at(10))
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
        store.jobs.finish(over.id, epoch, verdict.ran(0))
        store.lease.acquire("another")
        before = store.jobs.list()
        for write in (
            lambda: store.jobs.advance(job.id, epoch, "queued", phase="preparing"),
            lambda: store.jobs.finish(job.id, epoch, verdict.ran(0)),
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
        store.jobs.finish(over.id, epoch, verdict.ran(0))
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

    def test_who_is_switched_off_is_known(self, store: Store) -> None:
        user = add_user(store)
        add_user(store, "bob")
        assert store.users.inactive() == frozenset()
        store.users.set_active(user.id, False)
        assert store.users.inactive() == {user.id}
        store.users.set_active(user.id, True)
        assert store.users.inactive() == frozenset()

    def test_all_jobs_of_a_user_can_be_cancelled(self, store: Store, epoch: int) -> None:
        user, bob = add_user(store), add_user(store, "bob")
        waiting, over, others = add_job(store, user.id), add_job(store, user.id), add_job(store, bob.id)
        store.jobs.finish(over.id, epoch, verdict.ran(0))
        assert store.users.cancel_all(user.id, "the boss") == 1
        assert reread(store, waiting).cancelled_by == "the boss"
        assert reread(store, over).cancel_requested_at is None
        assert reread(store, others).cancel_requested_at is None

    def test_the_tombstone_goes_when_nothing_is_left(self, store: Store, epoch: int) -> None:
        user = add_user(store)
        job = add_job(store, user.id)
        with pytest.raises(Conflict, match="not deleted"):
            store.users.purge(user.id)
        store.users.delete(user.id)
        assert store.users.deleted() == [user.id]
        assert not store.users.purge(user.id)
        store.jobs.finish(job.id, epoch, verdict.cancelled("an administrator"))
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
        store.jobs.finish(job.id, epoch, verdict.ran(0))
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
