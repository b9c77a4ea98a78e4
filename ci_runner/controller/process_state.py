"""`ProcessState`: what one controller process knows of open jobs beside their rows.

The threads that perform actions write it, the thread that ticks reads it, so everything goes through one lock, and what
comes out is a copy. It dies with the process: whatever depends on it is done once more by the next controller.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ci_runner.controller.environments.preparer import Prepared
from ci_runner.controller.snapshot import Announced


@dataclass
class _JobState:
    """What is known of one job."""

    prepared: Prepared | None = None
    #: It was sent TERM, or its preparation was asked to end.
    signalled: bool = False
    announced: Announced | None = None
    #: Its log says that its files are being collected.
    collecting: bool = False


@dataclass(frozen=True)
class Snapshot:
    """What a decision needs of it, at one moment."""

    signalled: frozenset[str] = frozenset()
    announced: Mapping[str, Announced] = field(default_factory=dict)


class ProcessState:
    """One entry per open job. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, _JobState] = {}

    def snapshot(self, open_jobs: Collection[str]) -> Snapshot:
        """Forget all jobs but those in `open_jobs`, as last read, and return what is known of these.

        A job that has an entry was open once, and no job is opened again: one that is missing is over.
        """
        with self._lock:
            for job_id in self._jobs.keys() - open_jobs:
                del self._jobs[job_id]
            return Snapshot(
                frozenset(job_id for job_id, state in self._jobs.items() if state.signalled),
                {
                    job_id: state.announced
                    for job_id, state in self._jobs.items()
                    if state.announced is not None
                },
            )

    def forget(self, job_id: str) -> None:
        """Drop what is known of a job: it is over."""
        with self._lock:
            self._jobs.pop(job_id, None)

    def set_signalled(self, job_id: str) -> None:
        """Remember that the job was sent TERM, or that its preparation was asked to end."""
        with self._lock:
            self._of(job_id).signalled = True

    def is_signalled(self, job_id: str) -> bool:
        """Return whether it was."""
        with self._lock:
            state = self._jobs.get(job_id)
            return state is not None and state.signalled

    def set_announced(self, job_id: str, place: int, at: dt.datetime) -> None:
        """Remember that the waiting job was sent its place in the queue."""
        with self._lock:
            self._of(job_id).announced = Announced(place, at)

    def set_collecting(self, job_id: str) -> None:
        """Remember that the job's log says that its files are being collected."""
        with self._lock:
            self._of(job_id).collecting = True

    def is_collecting(self, job_id: str) -> bool:
        """Return whether it does."""
        with self._lock:
            state = self._jobs.get(job_id)
            return state is not None and state.collecting

    def set_prepared(self, job_id: str, prepared: Prepared | None) -> None:
        """Keep what was prepared until the job's container is started; None: it is."""
        with self._lock:
            self._of(job_id).prepared = prepared

    def prepared(self, job_id: str) -> Prepared | None:
        """Return what was prepared for the job by this process."""
        with self._lock:
            state = self._jobs.get(job_id)
            return state.prepared if state is not None else None

    def _of(self, job_id: str) -> _JobState:
        return self._jobs.setdefault(job_id, _JobState())
