"""`JobTimer`: how long the phases of running jobs take, by this process' steady clock.

Several threads add to it. It is lost with the process: phases that an earlier controller began have no duration.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from ci_runner.model.job import JobEvent
from pytest_remote_ci.wire.records import Finished, Report, Session, Started
from pytest_remote_ci.wire.timing import Timing

#: Moments of a job: its preparation ended, its command runs, its first and its newest test result, its command ended.
Moment = Literal["prepared", "running", "first test", "last test", "ended"]
#: Types of events of tests, and of a session that may have none.
_OF_TESTS: Final = frozenset({Started.event_type, Finished.event_type, Report.event_type})
_OF_SESSION: Final = Session.event_type


@dataclass
class _Times:
    phases: dict[str, float] = field(default_factory=dict)
    cold: list[str] = field(default_factory=list)
    #: How the container was started; "" if there was no choice.
    container: str = ""
    #: Moment → monotonic seconds.
    moments: dict[Moment, float] = field(default_factory=dict)
    is_recorded: bool = False

    def after_preparation(self, now: float) -> Iterator[tuple[str, float]]:
        """Yield the phases between the moments that are known, and the one that ends now."""
        at = self.moments
        steps: tuple[tuple[str, Moment], ...]
        if at.get("first test") is not None:
            steps = (("container", "running"), ("pytest", "first test"), ("tests", "last test"))
        else:
            steps = (("container", "running"), ("pytest" if self.is_recorded else "tests", "ended"))
        last = at.get("prepared")
        for phase, moment in steps:
            if moment in at:
                if last is not None:
                    yield phase, at[moment] - last
                last = at[moment]
        if "running" in at and last is not None:
            yield "end", now - last


class JobTimer:
    """The times of open jobs. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, _Times] = {}

    def add(
        self, job_id: str, phases: Mapping[str, float], cold: Sequence[str] = (), *, container: str = ""
    ) -> None:
        """Set the durations of phases, reasons why they took long, and how the container was started."""
        with self._lock:
            times = self._of(job_id)
            times.phases.update({name: max(0.0, seconds) for name, seconds in phases.items()})
            times.cold += [reason for reason in cold if reason not in times.cold]
            times.container = container or times.container

    def mark(self, job_id: str, moment: Moment) -> None:
        """Note that this moment is now; only "last test" may come again."""
        with self._lock:
            moments = self._of(job_id).moments
            if moment == "last test" or moment not in moments:
                moments[moment] = time.monotonic()

    def saw(self, job_id: str, events: Sequence[JobEvent]) -> None:
        """Note when tests ran, by the events of a recorded session, as they arrive."""
        types = {event.type for event in events}
        if types & _OF_TESTS:
            self.mark(job_id, "first test")
            self.mark(job_id, "last test")
        elif _OF_SESSION in types:
            with self._lock:
                self._of(job_id).is_recorded = True

    def pop(self, job_id: str, before: Timing) -> Timing:
        """Return the timing of a job that ends now, with the phases `before` it was taken up; forget it."""
        with self._lock:
            times = self._jobs.pop(job_id, _Times())
        phases = {**before.phases, **times.phases, **dict(times.after_preparation(time.monotonic()))}
        return Timing(phases, (*before.cold, *times.cold), times.container)

    def keep(self, open_jobs: Collection[str]) -> None:
        """Forget all other jobs."""
        with self._lock:
            for job_id in self._jobs.keys() - open_jobs:
                del self._jobs[job_id]

    def _of(self, job_id: str) -> _Times:
        return self._jobs.setdefault(job_id, _Times())
