"""`Notifier`: tells the plugins of every job that ended, at least once, whatever is killed in between.

That somebody is to be told is stored in the transaction that ends the job, and forgotten when all were told. A
controller that dies between the two leaves it to the next one, so a receiver may hear of a job twice and tells
by its id.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ci_runner import failpoints
from ci_runner.errors import LeaseLost
from ci_runner.model.job import Job
from ci_runner.store import Store

_log = logging.getLogger(__name__)

_BEFORE = failpoints.register("controller.tell.before", "a job is over, nobody was told")
_AFTER = failpoints.register("controller.tell.after", "all were told of a job's end, not recorded")

#: Seconds between two looks that nothing asked for: after an error, or where another program ended a job.
INTERVAL: Final = 10.0
#: Seconds that whoever is told gets when the controller ends.
_PATIENCE: Final = 10.0


@dataclass
class Notifier:
    """Works in a thread of its own. `fatal` is called, once, when the lease is lost."""

    store: Store
    epoch: int
    #: Called with each job that ended. What it raises is logged, and it is called again later.
    finished: Callable[[Job], None] | None
    fatal: Callable[[BaseException], None]
    interval: float = INTERVAL

    def __post_init__(self) -> None:
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)

    def start(self) -> None:
        """Begin with what an earlier controller did not come to."""
        self._thread.start()

    def wake(self) -> None:
        """A job is over."""
        self._wake.set()

    def close(self) -> None:
        """Tell what is to be told and end the thread; what was not told is left to the next controller."""
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
            for job in self.store.jobs.untold():
                self._tell(job)
        except LeaseLost:
            raise
        except Exception:
            _log.exception("it is unknown whose ends are to be told; trying again")

    def _tell(self, job: Job) -> None:
        """One that cannot be told does not keep the others waiting."""
        try:
            failpoints.hit(_BEFORE)
            if self.finished is not None:
                self.finished(job)
            failpoints.hit(_AFTER)
            self.store.jobs.told(job.id, self.epoch)
        except LeaseLost:
            raise
        except Exception:
            _log.exception("not all were told of the end of job %s; trying again", job.id)
