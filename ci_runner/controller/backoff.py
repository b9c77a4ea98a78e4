"""Pauses after failures: exponential, with jitter, per subject.

Only in memory: after a restart, everything may be tried at once.
"""

from __future__ import annotations

import datetime as dt
import random
import threading
from dataclasses import dataclass, field
from typing import Final

#: A failure not repeated for this long no longer counts.
_MEMORY: Final = dt.timedelta(minutes=10)


@dataclass
class Backoff:
    """Counts failures by subject (a job's id, a container's id). Thread-safe."""

    #: Seconds after the first failure; doubled after each further one.
    base: float = 0.25
    #: Maximum seconds, unless the failure itself asks for more.
    cap: float = 30.0
    random: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}
        self._until: dict[str, dt.datetime] = {}

    def failed(self, subject: str, now: dt.datetime, at_least: float = 0.0) -> int:
        """Record a failure and return how many there were in a row."""
        with self._lock:
            count = self._failures[subject] = self._failures.get(subject, 0) + 1
            longest = min(self.cap, self.base * 2 ** min(count - 1, 20))
            delay = max(at_least, longest * self.random.uniform(0.5, 1.0))
            self._until[subject] = now + dt.timedelta(seconds=delay)
            return count

    def hold(self, subject: str, now: dt.datetime, seconds: float) -> None:
        """Pause a subject although nothing failed: the effect of an action takes time to show."""
        with self._lock:
            self._failures.pop(subject, None)
            self._until[subject] = now + dt.timedelta(seconds=seconds)

    def succeeded(self, subject: str) -> None:
        """Forget a subject's failures."""
        with self._lock:
            self._failures.pop(subject, None)
            self._until.pop(subject, None)

    def held(self, now: dt.datetime) -> frozenset[str]:
        """Return the subjects that are paused now."""
        with self._lock:
            forgotten = [subject for subject, until in self._until.items() if until + _MEMORY < now]
            for subject in forgotten:
                del self._until[subject]
                self._failures.pop(subject, None)
            return frozenset(subject for subject, until in self._until.items() if until > now)
