"""`JobRepository`: users, keys, jobs and events, scoped by user, independent of what stores them.

The server, the controller and the commands of `admin` use the operations that it names through it, and the `Store` for
the rest: leases, spool offsets, paging of events, blobs, runs. `tests/contract/test_repository.py` tests every
implementation.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Protocol

from ci_runner.model.job import APIKey, Job, JobEvent, User
from pytest_remote_ci.wire.protocol import Status


class JobRepository(Protocol):
    """Users, keys, jobs and events.

    Methods may be called from any thread. Every change is stored when the call returns; a change of an unknown id
    raises `ci_runner.errors.NotFound`. A naive time is taken as UTC, with a `NaiveTimeWarning`; all times that are
    returned are aware.
    """

    def initialize(self) -> None:
        """Create or migrate the schema; any process may call this, more than once."""

    def close(self) -> None:
        """Release every connection; later use raises a `RunnerError`."""

    def create_job(self, job: Job) -> Job:
        """Store a new job and return it as stored; a duplicate id raises `Conflict`, an unknown user `NotFound`."""

    def get_job(self, job_id: str, user_id: str | None = None, *, events: bool = True) -> Job | None:
        """Return the job with its place in the queue, or None if it does not exist (or is not that user's).

        Its events are loaded unless `events` is false.
        """

    def update_job_status(
        self,
        job_id: str,
        status: Status,
        start_time: dt.datetime | None = None,
        container_id: str | None = None,
    ) -> None:
        """Change the status of a job that is not over; raises `Conflict` if it is over."""

    def complete_job(self, job_id: str, success: bool, end_time: dt.datetime | None = None) -> None:
        """End a job as `completed`; raises `Conflict` if it is over."""

    def list_jobs(
        self,
        user_id: str | None = None,
        *,
        status: Status | None = None,
        since: dt.datetime | None = None,
        query: str | None = None,
        limit: int = 1000,
        before: str | None = None,
    ) -> list[Job]:
        """Return jobs without their events, newest submission first, at most `limit` (never more than 1,000).

        `since`: submitted then or later. `query`: the beginning of the id or a part of the name, ignoring case.
        `before`: a job id; returns the page after that job (`NotFound` if it is unknown, or not that user's).
        """

    def add_event(self, job_id: str, event: JobEvent) -> int:
        """Append the event and return its number; raises `Conflict` if the job is over."""

    def get_events(self, job_id: str, from_index: int = 0, user_id: str | None = None) -> list[JobEvent]:
        """Return events in order, skipping the first `from_index`."""

    def get_events_since(self, job_id: str, seq: int, user_id: str | None = None) -> list[JobEvent]:
        """Return events numbered above `seq`, in order."""

    def create_user(self, user: User) -> User:
        """Store a new user and return it as stored; a duplicate e-mail (ignoring case) raises `Conflict`."""

    def get_user(self, user_id: str) -> User | None:
        """Return the user, or None."""

    def get_user_by_email(self, email: str) -> User | None:
        """Return the user, or None; case is ignored."""

    def list_users(self) -> list[User]:
        """Return all users, newest first."""

    def update_user_active_status(self, user_id: str, is_active: bool) -> User:
        """Switch a user, with all its keys, on or off; return the user."""

    def create_api_key(self, key: APIKey) -> APIKey:
        """Store a new key and return it as stored; a known hash or id raises `Conflict`, an unknown user `NotFound`."""

    def get_api_key_by_hash(self, key_hash: str) -> APIKey | None:
        """Return the key, active or not, or None."""

    def list_api_keys(self, user_id: str | None = None) -> Sequence[APIKey]:
        """Return keys, newest first; none for an unknown user."""

    def revoke_api_key(self, key_id: str) -> APIKey:
        """Revoke a key, immediately and permanently, and return it; repeated calls change nothing."""

    def update_api_key_last_used(self, key_id: str, moment: dt.datetime) -> None:
        """Store when the key was last used; ignores a moment before the stored one, and an unknown key."""
