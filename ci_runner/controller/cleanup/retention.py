"""`Reaper`: removes unused data, once a minute and once at the start.

It removes logs and artifacts beyond their retention, caches beyond their size, unused blobs, working folders of jobs
that no longer exist, and files of deleted users. `decide` handles containers.

The removed files were written by hostile code. So a round is bounded, the next one continues it, and a failure for
one job or user is logged in one line and does not delay others.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ci_runner import failpoints
from ci_runner.controller.cleanup.blob_gc import Collector
from ci_runner.controller.handlers import JobPreparer
from ci_runner.errors import LeaseLost
from ci_runner.model.job import utcnow
from ci_runner.storage.safe_fs import Trash, opened_folder
from ci_runner.storage.scopes import user_scope
from ci_runner.store import Store

_log = logging.getLogger(__name__)

_BEFORE = failpoints.register("controller.reap.before", "a round of removing begins")
_AFTER = failpoints.register("controller.reap.after", "a round of removing is done")

#: Seconds between two rounds.
INTERVAL: Final = 60.0
#: Entries of the trash to remove per step, and seconds for all steps of one round.
TRASH_STEP: Final = 10_000
TRASH_TIME: Final = 30.0


@dataclass
class Reaper:
    """Removes data from its own thread."""

    store: Store
    preparer: JobPreparer
    epoch: int
    data_dir: Path
    log_retention_days: float
    fatal: Callable[[BaseException], None]
    interval: float = INTERVAL
    result_retention_days: float = 90.0

    def __post_init__(self) -> None:
        self._collector = Collector(self.store, self.data_dir)
        self._trash = Trash(self.data_dir / "trash")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        """Start with a first round."""
        self._thread.start()

    def close(self) -> None:
        """End the thread after its current step."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                self._round()
                if self._stop.wait(self.interval):
                    return
        except LeaseLost as error:
            self.fatal(error)
        finally:
            self.store.release()

    def _round(self) -> None:
        failpoints.hit(_BEFORE)
        for step in (
            self._work_folders,
            self._uploads,
            self._caches,
            self._logs,
            self._artifacts,
            self._tests,
            self._deleted_users,
            self._contents,
            self._empty_trash,
        ):
            if self._stop.is_set():
                return
            try:
                # Check the lease: what follows removes files, which no epoch in a transaction protects.
                self.store.lease.heartbeat(self.epoch)
                step()
            except LeaseLost:
                raise
            except Exception as error:
                _complain(step.__name__.strip("_"), error)
        failpoints.hit(_AFTER)

    def _work_folders(self) -> None:
        """Remove working folders without a job.

        List the folders before the rows: a folder is only ever made for a job that has a row.
        """
        work = self.data_dir / "work"
        found = {path.name.rpartition("-")[0] for path in work.iterdir()} if work.is_dir() else set()
        known = {job.id for job in self.store.jobs.open()} | {job.id for job in self.store.jobs.uncleaned()}
        for job_id in sorted(found - known - {""}):
            _log.info("removing the working folders of job %s, which belong to no job any more", job_id)
            self._each("the working folders of job", (job_id,), self.preparer.remove_work)

    def _uploads(self) -> None:
        self._collector.blobs.sweep_uploads()

    def _contents(self) -> None:
        """Remove unused blobs, after the deleted users' grants are revoked."""
        self._collector.collect(self._stop.is_set)

    def _caches(self) -> None:
        jobs = self.store.jobs.open()
        keys = {key for job in jobs for key in (job.workspace, job.environment) if key}
        self.preparer.evict(frozenset(keys | self.store.runs.open_workspaces()))

    def _logs(self) -> None:
        self.store.events.prune(utcnow() - dt.timedelta(days=self.log_retention_days))

    def _artifacts(self) -> None:
        """Remove expired artifacts, before the blobs, which go with their last artifact."""
        self.store.artifacts.prune(utcnow())

    def _tests(self) -> None:
        self.store.tests.prune(utcnow() - dt.timedelta(days=self.result_retention_days))

    def _deleted_users(self) -> None:
        self._each("the deleted user", self.store.users.deleted(), self._delete_user)

    def _delete_user(self, user_id: str) -> None:
        jobs = [*self.store.jobs.open(), *self.store.jobs.uncleaned()]
        if any(job.user_id == user_id for job in jobs):
            return  # being cancelled and removed
        deleted = [job.id for job in self.store.jobs.delete_of_user(user_id)]
        self._each("the working folders of job", deleted, self.preparer.remove_work)
        with (
            contextlib.suppress(FileNotFoundError),
            opened_folder(self.data_dir / "environments") as environments,
        ):
            self._trash.hide(environments, user_scope(user_id))
        self.store.users.purge(user_id)

    def _each(self, what: str, names: Iterable[str], remove: Callable[[str], None]) -> None:
        """Call `remove` for each name; failures are tried again in the next round."""
        for name in names:
            if self._stop.is_set():
                return
            try:
                remove(name)
            except LeaseLost:
                raise
            except Exception as error:
                _complain(f"{what} {name}", error)

    def _empty_trash(self) -> None:
        """Delete hidden trash, and what crashes left of it, for some seconds."""
        end = time.monotonic() + TRASH_TIME
        while not self._stop.is_set() and time.monotonic() < end:
            self.store.lease.heartbeat(self.epoch)
            if self._trash.empty(TRASH_STEP):
                return


def _complain(what: str, error: Exception) -> None:
    """Log one line, however often it happens; the traceback only at debug level."""
    _log.warning("removing: %s failed: %s: %s", what, type(error).__name__, error)
    _log.debug("removing: %s failed", what, exc_info=error)
