"""A `JobRepository` in memory: for tests of the server's and the commands' parts that need no database."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ci_runner.errors import Conflict, NotFound
from ci_runner.model.fair_queue import fair_order, running_per_user
from ci_runner.model.job import APIKey, Job, JobEvent, User, as_utc, utcnow
from ci_runner.model.verdict import Verdict
from ci_runner.store import StoreError
from ci_runner.store.job_repository import JobRepository
from ci_runner.store.users import email_key
from pytest_remote_ci.wire.protocol import TERMINAL_STATUSES, Status

_PAGE = 1000


@dataclass
class Contents:
    """What repositories share that are opened on the same contents, as on one database file."""

    users: dict[str, User] = field(default_factory=dict)
    keys: dict[str, APIKey] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    #: Job id → its events.
    events: dict[str, list[JobEvent]] = field(default_factory=dict)
    #: User id → when a job of the user last left the queue.
    served: dict[str, dt.datetime] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)


class MemoryRepository(JobRepository):
    """Users, keys, jobs and events in dictionaries, under one lock."""

    def __init__(self, contents: Contents | None = None) -> None:
        self._contents = Contents() if contents is None else contents
        self._is_closed = False

    def initialize(self) -> None:
        self._open()

    def close(self) -> None:
        self._is_closed = True

    # -- jobs

    def create_job(self, job: Job) -> Job:
        contents = self._open()
        with contents.lock:
            if job.user_id is not None and job.user_id not in contents.users:
                raise NotFound("User not found", job.user_id)
            if job.id in contents.jobs:
                raise Conflict(f"Job {job.id} already exists")
            submitted = utcnow() if job.submitted_at is None else job.submitted_at
            changes: dict[str, Any] = {"last_seq": 0, "log_bytes": 0, "events": (), "queue_position": None}
            contents.jobs[job.id] = _in_utc(replace(job, submitted_at=submitted, **changes))
            contents.events[job.id] = []
            for event in job.events:
                self._append(job.id, event)
            return contents.jobs[job.id]

    def get_job(self, job_id: str, user_id: str | None = None, *, events: bool = True) -> Job | None:
        contents = self._open()
        with contents.lock:
            job = contents.jobs.get(job_id)
            if job is None or user_id not in (None, job.user_id):
                return None
            found = tuple(contents.events[job_id]) if events else ()
            return replace(job, events=found, queue_position=self._queue().get(job_id))

    def update_job_status(
        self,
        job_id: str,
        status: Status,
        start_time: dt.datetime | None = None,
        container_id: str | None = None,
    ) -> None:
        with self._open().lock:
            job = self._require_open(job_id)
            if status in TERMINAL_STATUSES:
                self._finish(job, Verdict(status, None), None)
                return
            phase = "queued" if status == "queued" else "testing"
            changes: dict[str, Any] = {"status": status, "phase": phase, "phase_since": utcnow()}
            if start_time is not None:
                changes["start_time"] = as_utc(start_time)
                self._contents.served[job.user_id or ""] = changes["start_time"]
            if container_id is not None:
                changes["container_id"] = container_id
            self._contents.jobs[job_id] = replace(job, **changes)

    def complete_job(self, job_id: str, success: bool, end_time: dt.datetime | None = None) -> None:
        with self._open().lock:
            self._finish(self._require_open(job_id), Verdict("completed", success), end_time)

    def list_jobs(
        self,
        user_id: str | None = None,
        *,
        status: Status | None = None,
        since: dt.datetime | None = None,
        query: str | None = None,
        limit: int = _PAGE,
        before: str | None = None,
    ) -> list[Job]:
        contents = self._open()
        with contents.lock:
            last = None if before is None else contents.jobs.get(before)
            if before is not None and (last is None or user_id not in (None, last.user_id)):
                raise NotFound("Job not found", before)
            places = self._queue()
            word = (query or "").casefold()
            found = [
                replace(job, queue_position=places.get(job.id))
                for job in contents.jobs.values()
                if user_id in (None, job.user_id)
                and status in (None, job.status)
                and (since is None or _submission(job)[0] >= as_utc(since))
                and (job.id.casefold().startswith(word) or word in (job.name or "").casefold())
                and (last is None or _submission(job) < _submission(last))
            ]
        return sorted(found, key=_submission, reverse=True)[: max(0, min(limit, _PAGE))]

    # -- events

    def add_event(self, job_id: str, event: JobEvent) -> int:
        with self._open().lock:
            if self._require(job_id).is_over:
                raise Conflict("Job has ended and accepts no more events")
            return self._append(job_id, event)

    def get_events(self, job_id: str, from_index: int = 0, user_id: str | None = None) -> list[JobEvent]:
        return self.get_events_since(job_id, 0, user_id)[from_index:]

    def get_events_since(self, job_id: str, seq: int, user_id: str | None = None) -> list[JobEvent]:
        job = self.get_job(job_id, user_id)
        return [] if job is None else [event for event in job.events if event.seq > seq]

    # -- users and keys

    def create_user(self, user: User) -> User:
        contents = self._open()
        with contents.lock:
            if user.id in contents.users or self.get_user_by_email(user.email) is not None:
                raise Conflict(f"User with email {user.email} already exists")
            contents.users[user.id] = _in_utc(user)
            return contents.users[user.id]

    def get_user(self, user_id: str) -> User | None:
        return self._open().users.get(user_id)

    def get_user_by_email(self, email: str) -> User | None:
        contents = self._open()
        with contents.lock:
            wanted = email_key(email)
            return next((user for user in contents.users.values() if email_key(user.email) == wanted), None)

    def list_users(self) -> list[User]:
        contents = self._open()
        with contents.lock:
            users = sorted(contents.users.values(), key=lambda user: user.id)
        return sorted(users, key=lambda user: user.created_at, reverse=True)

    def update_user_active_status(self, user_id: str, is_active: bool) -> User:
        contents = self._open()
        with contents.lock:
            if user_id not in contents.users:
                raise NotFound("User not found", user_id)
            contents.users[user_id] = replace(contents.users[user_id], is_active=is_active)
            return contents.users[user_id]

    def create_api_key(self, key: APIKey) -> APIKey:
        contents = self._open()
        with contents.lock:
            if key.user_id not in contents.users:
                raise NotFound("User not found", key.user_id)
            if key.id in contents.keys or self.get_api_key_by_hash(key.key_hash) is not None:
                raise Conflict(f"API key {key.id} already exists")
            contents.keys[key.id] = _in_utc(key)
            return contents.keys[key.id]

    def get_api_key_by_hash(self, key_hash: str) -> APIKey | None:
        contents = self._open()
        with contents.lock:
            return next((key for key in contents.keys.values() if key.key_hash == key_hash), None)

    def list_api_keys(self, user_id: str | None = None) -> Sequence[APIKey]:
        contents = self._open()
        with contents.lock:
            keys = [key for key in contents.keys.values() if user_id in (None, key.user_id)]
        by_id = sorted(keys, key=lambda key: key.id)
        return sorted(by_id, key=lambda key: key.created_at, reverse=True)

    def revoke_api_key(self, key_id: str) -> APIKey:
        contents = self._open()
        with contents.lock:
            if key_id not in contents.keys:
                raise NotFound("API key not found", key_id)
            contents.keys[key_id] = replace(contents.keys[key_id], is_active=False)
            return contents.keys[key_id]

    def update_api_key_last_used(self, key_id: str, moment: dt.datetime) -> None:
        contents = self._open()
        with contents.lock:
            key = contents.keys.get(key_id)
            if key is not None and (key.last_used_at is None or key.last_used_at < as_utc(moment)):
                contents.keys[key_id] = replace(key, last_used_at=as_utc(moment))

    # -- inside

    def _open(self) -> Contents:
        if self._is_closed:
            raise StoreError("the repository is closed")
        return self._contents

    def _require(self, job_id: str) -> Job:
        job = self._contents.jobs.get(job_id)
        if job is None:
            raise NotFound("Job not found", job_id)
        return job

    def _require_open(self, job_id: str) -> Job:
        job = self._require(job_id)
        if job.is_over:
            raise Conflict(f"Job is already {job.status}")
        return job

    def _append(self, job_id: str, event: JobEvent) -> int:
        job, stored = self._require(job_id), self._contents.events[job_id]
        moment = utcnow() if event.timestamp is None else as_utc(event.timestamp)
        stored.append(replace(event, seq=len(stored) + 1, timestamp=moment))
        size = len((event.data or "").encode("utf-8", "surrogatepass")) if event.type == "log" else 0
        self._contents.jobs[job_id] = replace(job, last_seq=len(stored), log_bytes=job.log_bytes + size)
        return len(stored)

    def _finish(self, job: Job, verdict: Verdict, end_time: dt.datetime | None) -> None:
        moment = utcnow() if end_time is None else as_utc(end_time)
        complete = JobEvent(
            "complete", success=verdict.success is True, timestamp=moment, fields=verdict.complete_fields()
        )
        self._append(job.id, complete)
        self._contents.jobs[job.id] = replace(
            self._contents.jobs[job.id],
            status=verdict.status,
            success=verdict.success,
            exit_code=verdict.exit_code,
            reason=verdict.reason,
            end_time=moment,
            phase="finishing",
            phase_since=moment,
            building=False,
        )

    def _queue(self) -> dict[str, int]:
        jobs = [job for job in self._contents.jobs.values() if not job.is_over]
        waiting = [job for job in jobs if job.phase == "queued" and job.cancel_requested_at is None]
        order = fair_order(waiting, self._contents.served, running_per_user(jobs))
        return {job.id: place for place, job in enumerate(order, 1)}


def _submission(job: Job) -> tuple[dt.datetime, str]:
    assert job.submitted_at is not None
    return job.submitted_at, job.id


def _in_utc(value: Any) -> Any:
    """Return the value with all its times in UTC."""
    times = {name: as_utc(item) for name, item in vars(value).items() if isinstance(item, dt.datetime)}
    return replace(value, **times)
