"""`Collector`: removes blobs and trees that are no longer accessible, or have long been unused.

A user's blobs stay as long as they are submitted again now and then, so that most submissions find most of their
contents on the runner. Access is determined by the grants alone: deleting a user revokes theirs. Removing and
granting exclude each other (`BlobStore.collecting`): a submission either comes first and keeps the blobs that it
names, or comes second and sees which are missing.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ci_runner import failpoints
from ci_runner.controller.environments.workspaces import Workspaces
from ci_runner.model.job import utcnow
from ci_runner.storage.blobs import BlobStore, job_owner
from ci_runner.store import Store

_log = logging.getLogger(__name__)

_FORGOTTEN = failpoints.register(
    "controller.collect.forgotten", "grants are taken back, the files still there"
)

#: Contents that no submission named for this long are removed.
GRACE: Final = dt.timedelta(hours=24)
#: Minimum age of removed contents without a grant: they may belong to an upload, which is granted last.
UPLOAD: Final = dt.timedelta(hours=2)
#: Seconds between two collections.
INTERVAL: Final = 600.0
#: Contents removed at a time while submissions wait.
_PORTION: Final = 100


@dataclass
class Collector:
    """The blobs and trees of one data directory. For one thread only."""

    store: Store
    data_dir: Path
    grace: dt.timedelta = GRACE
    upload: dt.timedelta = UPLOAD
    interval: float = INTERVAL

    def __post_init__(self) -> None:
        owner = job_owner()
        self.blobs = BlobStore(self.data_dir, owner)
        self._workspaces = Workspaces(self.data_dir, self.blobs, owner)
        self._next = 0.0

    def collect(self, stopping: Callable[[], bool] = lambda: False) -> int:
        """Remove unused contents, unless that was done recently; return how many."""
        if time.monotonic() < self._next:
            return 0
        self._next = time.monotonic() + self.interval
        now = utcnow()
        removed = sum(self._contents(now, stopping))
        if not stopping():
            self._trees(now)
        if removed:
            _log.info("removed %d contents that were no longer in use", removed)
        return removed

    def _contents(self, now: dt.datetime, stopping: Callable[[], bool]) -> Iterator[int]:
        limit, before = now - self.grace, (now - self.upload).timestamp()
        unused = set(self.store.blobs.unreferenced(limit))
        for aged in self.blobs.aged(before):
            wanted = (set(aged) - self.store.blobs.known(aged)) | (unused & set(aged))
            unused -= wanted
            for portion in _portions(wanted):
                if stopping():
                    return
                yield self._remove(portion, limit, before)
        for portion in _portions(unused):  # without a file, or uploaded again meanwhile
            self.store.blobs.forget(portion, limit)

    def _remove(self, digests: list[str], limit: dt.datetime, before: float) -> int:
        with self.blobs.collecting():
            nobodys = self.store.blobs.forget(digests, limit)
            failpoints.hit(_FORGOTTEN)
            return sum(self.blobs.remove_aged(digest, before) for digest in nobodys)

    def _trees(self, now: dt.datetime) -> None:
        """Remove trees without a manifest (itself a content); jobs that have not ended keep theirs."""
        before = (now - self.upload).timestamp()
        trees = [digest for used, digest in self._workspaces.unused() if used < before]
        with self.blobs.collecting():
            doomed = set(trees) - self.store.blobs.known(trees)
            doomed -= {job.workspace for job in self.store.jobs.open() if job.workspace}
            doomed -= self.store.runs.open_workspaces()
            # Hide them at once; their files are removed afterwards.
            hidden = [self._workspaces.hide(digest) for digest in sorted(doomed)]
        for folder in hidden:
            self._workspaces.destroy(folder)


def _portions(digests: Iterable[str]) -> Iterator[list[str]]:
    ordered = sorted(digests)
    for start in range(0, len(ordered), _PORTION):
        yield ordered[start : start + _PORTION]
