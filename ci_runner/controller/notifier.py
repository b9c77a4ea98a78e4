"""`Notifier`: notify plugins of each job's end, at least once, even if processes are killed.

Transactional outbox: the pending notification is stored in the transaction that ends the job, and deleted once all
plugins have handled it. If the controller dies between the two, the next one notifies again, so a receiver may get a
job twice; it can recognise the job by its id.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ci_runner import failpoints
from ci_runner.errors import LeaseLost
from ci_runner.logs import outages
from ci_runner.model.job import Job
from ci_runner.store import Store

_log = logging.getLogger(__name__)

_BEFORE = failpoints.register("controller.notify.before", "a job is over, no plugin is notified")
_AFTER = failpoints.register("controller.notify.after", "all plugins are notified, not recorded")

#: Seconds between two unrequested checks: for errors, and for jobs that another program ended.
INTERVAL: Final = 10.0
#: Seconds that a plugin's handler gets when the controller ends.
_PATIENCE: Final = 10.0


@dataclass
class Notifier:
    """Sends notifications from its own thread. `fatal` is called, once, when the lease is lost."""

    store: Store
    epoch: int
    #: Called with each job that ended. Its exceptions are logged, and it is called again later.
    finished: Callable[[Job], None] | None
    fatal: Callable[[BaseException], None]
    interval: float = INTERVAL

    def __post_init__(self) -> None:
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)

    def start(self) -> None:
        """Start with the notifications that an earlier controller left."""
        self._thread.start()

    def wake(self) -> None:
        """Check for ended jobs now."""
        self._wake.set()

    def close(self) -> None:
        """Send pending notifications and end the thread; the next controller sends the rest."""
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE)

    def _run(self) -> None:
        try:
            while True:
                last = self._stopping
                self._round()
                if last:
                    return
                self._wake.wait(self.interval)
                self._wake.clear()
        except LeaseLost as error:
            self.fatal(error)
        finally:
            self.store.release()

    def _round(self) -> None:
        try:
            for job in self.store.jobs.pending_notifications():
                self._notify(job)
        except LeaseLost:
            raise
        except Exception as error:
            outages.report(_log, "the pending notifications cannot be read", error)

    def _notify(self, job: Job) -> None:
        """Send one notification; a failure does not delay the others."""
        try:
            failpoints.hit(_BEFORE)
            if self.finished is not None:
                self.finished(job)
            failpoints.hit(_AFTER)
            self.store.jobs.mark_notified(job.id, self.epoch)
        except LeaseLost:
            raise
        except Exception as error:
            outages.report(_log, f"not all plugins were notified of the end of job {job.id}", error)
