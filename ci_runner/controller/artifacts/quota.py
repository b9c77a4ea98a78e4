"""`Quota`: maximum bytes of all artifacts of one user.

The store knows the artifacts that are stored; only this object knows those that the user's other jobs are storing
now. Nothing stored is ever deleted for something new: files that do not fit are left out, and `collect` reports them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from ci_runner.model.job import Job

#: More than any disk has.
UNLIMITED: Final = 1 << 62


class Quota:
    """Stored and claimed bytes per user. Thread-safe.

    A job claims bytes before its rows are written, and is `release`d when they are written or never will be. In
    between, its bytes are counted twice for the user's other jobs: never too few.
    """

    def __init__(self, limit: int = UNLIMITED, stored: Callable[[str], int] = lambda user_id: 0) -> None:
        """Set up the quota. `stored` returns the bytes of a user's artifacts that have rows."""
        self.limit = limit
        self._stored = stored
        self._lock = threading.Lock()
        #: User → the store's answer when the last of their jobs began or ended.
        self._base: dict[str, int] = {}
        #: User → job → bytes.
        self._claims: dict[str, dict[str, int]] = {}

    def has_room(self, job: Job, size: int) -> bool:
        """Return whether `claim` would succeed now."""
        if job.user_id is None:
            return True
        with self._lock:
            return self._used(job.user_id, job.id) + size <= self.limit

    def claim(self, job: Job, size: int) -> bool:
        """Claim `size` more bytes for the job; if that is too much, return False and claim nothing."""
        user_id = job.user_id
        if user_id is None:
            return True
        with self._lock:
            if self._used(user_id, job.id) + size > self.limit:
                return False
            self._claims[user_id][job.id] += size
            return True

    def release(self, job_id: str) -> None:
        """Drop the job's claims: its rows are written, or never will be."""
        with self._lock:
            for user_id, claims in list(self._claims.items()):
                if claims.pop(job_id, None) is None:
                    continue
                if claims:
                    self._base[user_id] = self._stored(user_id)
                else:
                    del self._claims[user_id], self._base[user_id]

    def _used(self, user_id: str, job_id: str) -> int:
        if user_id not in self._base:
            self._base[user_id] = self._stored(user_id)
        claims = self._claims.setdefault(user_id, {})
        claims.setdefault(job_id, 0)
        return self._base[user_id] + sum(claims.values())
