"""`JobRepository`: what the core needs from a store, as an interface (the seed's, with user scoping).

The Peewee store implements it; `tests/contract/test_repository.py` holds every implementation to it. Methods may be
called from any thread. Every change is durable when the call returns.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Protocol

from ci_runner.model.job import APIKey, Job, JobEvent, User
from pytest_remote_ci.wire.protocol import Status


class JobRepository(Protocol):
    """Users, keys, jobs and events. Unknown ids raise `ci_runner.errors.NotFound` where a change was asked for."""

    def initialize(self) -> None:
        """Create or migrate the schema; may be called by whoever starts first, and again."""

    def close(self) -> None:
        """Release every connection; the repository is of no use afterwards."""

    def create_job(self, job: Job) -> Job:
        """Store a new job; a duplicate id raises `Conflict`."""

    def get_job(self, job_id: str, user_id: str | None = None, *, events: bool = False) -> Job | None:
        """The job, or None when there is none (of that user)."""

    def update_job_status(
        self,
        job_id: str,
        status: Status,
        *,
        start_time: dt.datetime | None = None,
        container_id: str | None = None,
    ) -> None:
        """Change the status of a job that is not over; a terminal status stays as it is (raises `Conflict`)."""

    def complete_job(self, job_id: str, success: bool, end_time: dt.datetime | None = None) -> None:
        """End a job as `completed`; a job that is over raises `Conflict`."""

    def list_jobs(
        self, user_id: str | None = None, *, status: Status | None = None, limit: int = 1000
    ) -> list[Job]:
        """Without events, newest submission first."""

    def add_event(self, job_id: str, event: JobEvent) -> int:
        """Append and return the event's number."""

    def get_events(self, job_id: str, from_index: int = 0, user_id: str | None = None) -> list[JobEvent]:
        """Events in order, skipping the first `from_index`."""

    def get_events_since(self, job_id: str, seq: int, user_id: str | None = None) -> list[JobEvent]:
        """Events numbered above `seq`, in order."""

    def create_user(self, user: User) -> User:
        """A duplicate e-mail (whatever its case) raises `Conflict`."""

    def get_user(self, user_id: str) -> User | None:
        """The user, or None."""

    def get_user_by_email(self, email: str) -> User | None:
        """The user, or None; case does not matter."""

    def list_users(self) -> list[User]:
        """Newest first."""

    def update_user_active_status(self, user_id: str, is_active: bool) -> None:
        """Switch a user, and with it all its keys, off or on."""

    def create_api_key(self, key: APIKey) -> APIKey:
        """A duplicate hash raises `Conflict`."""

    def get_api_key_by_hash(self, key_hash: str) -> APIKey | None:
        """The key, active or not, or None."""

    def list_api_keys(self, user_id: str | None = None) -> Sequence[APIKey]:
        """Newest first."""

    def revoke_api_key(self, key_id: str) -> None:
        """Effective at once and for ever."""

    def update_api_key_last_used(self, key_id: str, moment: dt.datetime) -> None:
        """Remember when the key was last used."""
