"""What the routes work with, handed over once: the store, the blobs, the settings, the clock, the hooks."""

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


class Hooks(Protocol):
    """The part of the runner's plugin hooks that the HTTP plane calls (a `pluggy.HookRelay` fits)."""

    def authenticate(self, *, credentials: str) -> str | None:
        """Id or e-mail address of the user whose bearer credentials these are; None when they are unknown."""

    def job_submitted(self, *, job: Job) -> object:
        """A job was accepted and is durable."""


@dataclass(frozen=True)
class Services:
    """Everything that a request may need; shared by all threads."""

    store: Store
    blobs: BlobStore
    serve: ServeSettings
    storage: StorageSettings
    clock: Callable[[], dt.datetime] = utcnow
    hooks: Hooks | None = None

    @property
    def archive_limits(self) -> ArchiveLimits:
        """How much one project may hold."""
        return ArchiveLimits(max_files=self.serve.max_files, max_unpacked=self.serve.max_unpacked)
