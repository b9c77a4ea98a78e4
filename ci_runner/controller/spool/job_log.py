"""`JobLog`: the controller's own lines in a job's log while it prepares the job."""

from __future__ import annotations

from dataclasses import dataclass

from ci_runner.controller.spool.log_budget import within_budget
from ci_runner.model.job import Job, JobEvent
from ci_runner.store import Store
from pytest_remote_ci.wire.protocol import LOG_CHUNK_BYTES


@dataclass
class JobLog:
    """Stores the preparer's lines for the user, one at a time, within the job's log budget."""

    store: Store
    epoch: int
    #: Maximum bytes of log stored per job.
    budget: int
    job: Job

    def __post_init__(self) -> None:
        self._stored = self.job.log_bytes

    def __call__(self, line: str) -> None:
        """Store `line` as log of the runner."""
        text = line.rstrip("\n") + "\n"
        # In characters: at most a quarter of a chunk's bytes.
        step = LOG_CHUNK_BYTES // 4
        parts = [text[start : start + step] for start in range(0, len(text), step)]
        clean = [part.encode("utf-8", "replace").decode() for part in parts]
        events = [JobEvent("log", part, fields={"stream": "runner"}) for part in clean]
        fitting, size = within_budget(events, self._stored, self.budget)
        if fitting:
            self.store.events.append(self.job.id, self.epoch, fitting)
            self._stored += size
