"""`ProcessState`: one controller process's knowledge of open jobs beyond their rows.

The threads that perform actions write it, and the ticking thread reads it. So all access goes through one lock, and
results are copies. It is lost with the process: the next controller repeats everything that depends on it.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass

from ci_runner.controller.environments.container_specs import Prepared


@dataclass
class _JobState:
    """State of one job."""

    prepared: Prepared | None = None
    #: TERM was sent, or the preparation was asked to end.
    signalled: bool = False
    #: The log has the line that the job's files are being collected.
    collecting: bool = False


@dataclass(frozen=True)
class StateSnapshot:
    """The part that a decision needs, at one moment."""

    signalled: frozenset[str] = frozenset()


class ProcessState:
    """One entry per open job. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, _JobState] = {}
        #: Users for one of whose jobs byte code is made.
        self._compiling: set[str | None] = set()

    def snapshot(self, open_jobs: Collection[str]) -> StateSnapshot:
        """Forget all jobs but those in `open_jobs`, as last read, and return the state of these.

        A job with an entry was open once, and no job is opened again, so a missing one has ended.
        """
        with self._lock:
            for job_id in self._jobs.keys() - open_jobs:
                del self._jobs[job_id]
            return StateSnapshot(frozenset(job_id for job_id, state in self._jobs.items() if state.signalled))

    def forget(self, job_id: str) -> None:
        """Forget a job that has ended."""
        with self._lock:
            self._jobs.pop(job_id, None)

    def set_signalled(self, job_id: str) -> None:
        """Record that the job was sent TERM, or that its preparation was asked to end."""
        with self._lock:
            self._of(job_id).signalled = True

    def is_signalled(self, job_id: str) -> bool:
        """Return whether the job was sent TERM, or its preparation asked to end."""
        with self._lock:
            state = self._jobs.get(job_id)
            return state is not None and state.signalled

    def set_collecting(self, job_id: str) -> None:
        """Record that the job's log has the line about collecting its files."""
        with self._lock:
            self._of(job_id).collecting = True

    def is_collecting(self, job_id: str) -> bool:
        """Return whether the job's log has the line about collecting its files."""
        with self._lock:
            state = self._jobs.get(job_id)
            return state is not None and state.collecting

    def set_prepared(self, job_id: str, prepared: Prepared | None) -> None:
        """Store the preparation's result until the job's container is started; None deletes it."""
        with self._lock:
            self._of(job_id).prepared = prepared

    def prepared(self, job_id: str) -> Prepared | None:
        """Return the result of this process's preparation of the job, or None."""
        with self._lock:
            state = self._jobs.get(job_id)
            return state.prepared if state is not None else None

    def begin_bytecode(self, user_id: str | None) -> bool:
        """Record that byte code is made for a job of the user; False if that is so already."""
        with self._lock:
            if user_id in self._compiling:
                return False
            self._compiling.add(user_id)
            return True

    def end_bytecode(self, user_id: str | None) -> None:
        """Record that the user's byte code is made."""
        with self._lock:
            self._compiling.discard(user_id)

    def _of(self, job_id: str) -> _JobState:
        return self._jobs.setdefault(job_id, _JobState())
