"""`JobRepository`: the interface between the core and a store, scoped by user.

The Peewee store implements it; `tests/contract/test_repository.py` tests every implementation. Methods may be called
from any thread. Every change is durable when the call returns.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Protocol

from ci_runner.model.job import APIKey, Job, JobEvent, User
from pytest_remote_ci.wire.protocol import Status


class JobRepository(Protocol):
    """Users, keys, jobs and events. A change of an unknown id raises `ci_runner.errors.NotFound`."""

    def initialize(self) -> None:
        """Create or migrate the schema; any process may call this, more than once."""

    def close(self) -> None:
        """Release every connection; the repository cannot be used afterwards."""

    def create_job(self, job: Job) -> Job:
        """Store a new job; a duplicate id raises `Conflict`."""

    def get_job(self, job_id: str, user_id: str | None = None, *, events: bool = False) -> Job | None:
        """Return the job, or None if it does not exist (or is not that user's)."""

    def update_job_status(
        self,
        job_id: str,
        status: Status,
        *,
        start_time: dt.datetime | None = None,
        container_id: str | None = None,
    ) -> None:
        """Change the status of a job that is not over; raises `Conflict` if it is over."""

    def complete_job(self, job_id: str, success: bool, end_time: dt.datetime | None = None) -> None:
        """End a job as `completed`; raises `Conflict` if it is over."""

    def list_jobs(
        self, user_id: str | None = None, *, status: Status | None = None, limit: int = 1000
    ) -> list[Job]:
        """Return jobs without their events, newest submission first."""

    def add_event(self, job_id: str, event: JobEvent) -> int:
        """Append the event and return its number."""

    def get_events(self, job_id: str, from_index: int = 0, user_id: str | None = None) -> list[JobEvent]:
        """Return events in order, skipping the first `from_index`."""

    def get_events_since(self, job_id: str, seq: int, user_id: str | None = None) -> list[JobEvent]:
        """Return events numbered above `seq`, in order."""

    def create_user(self, user: User) -> User:
        """Store a new user; a duplicate e-mail (ignoring case) raises `Conflict`."""

    def get_user(self, user_id: str) -> User | None:
        """Return the user, or None."""

    def get_user_by_email(self, email: str) -> User | None:
        """Return the user, or None; case is ignored."""

    def list_users(self) -> list[User]:
        """Return all users, newest first."""

    def update_user_active_status(self, user_id: str, is_active: bool) -> None:
        """Switch a user, with all its keys, on or off."""

    def create_api_key(self, key: APIKey) -> APIKey:
        """Store a new key; a duplicate hash raises `Conflict`."""

    def get_api_key_by_hash(self, key_hash: str) -> APIKey | None:
        """Return the key, active or not, or None."""

    def list_api_keys(self, user_id: str | None = None) -> Sequence[APIKey]:
        """Return keys, newest first."""

    def revoke_api_key(self, key_id: str) -> None:
        """Revoke a key, at once and for ever."""

    def update_api_key_last_used(self, key_id: str, moment: dt.datetime) -> None:
        """Store when the key was last used."""
