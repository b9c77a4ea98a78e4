"""Dependencies of all routes: the store, the blobs, the settings, the clock, the hooks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ci_runner.model.job import Job, utcnow
from ci_runner.settings.groups import ServeSettings, StorageSettings
from ci_runner.storage.blobs import BlobStore
from ci_runner.storage.zip_reader import ArchiveLimits
from ci_runner.store import Store
from ci_runner.store.job_repository import JobRepository


class Hooks(Protocol):
    """The plugin hooks that the HTTP server calls (a `pluggy.HookRelay` fits)."""

    def authenticate(self, *, credentials: str) -> str | None:
        """Return the id or e-mail address of the user with these bearer credentials; None if unknown."""

    def job_submitted(self, *, job: Job) -> object:
        """Handle a job that was accepted and is durable."""


@dataclass(frozen=True)
class Services:
    """Dependencies of the routes, shared by all threads."""

    store: Store
    blobs: BlobStore
    serve: ServeSettings
    storage: StorageSettings
    clock: Callable[[], dt.datetime] = utcnow
    hooks: Hooks | None = None

    @property
    def repository(self) -> JobRepository:
        """The store, for what needs only users, keys, jobs and events."""
        return self.store

    @property
    def archive_limits(self) -> ArchiveLimits:
        """The limits on the size of one project."""
        return ArchiveLimits(max_files=self.serve.max_files, max_unpacked=self.serve.max_unpacked)
