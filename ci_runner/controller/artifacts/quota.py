"""`Quota`: how many bytes the artifacts of one user may take altogether.

What is stored already is the store's to say; what other jobs of the user are keeping just now is known here alone.
Nothing that is kept is ever deleted for something new: what does not fit is left out, and `artifacts` says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from ci_runner.model.job import Job

#: More than any disk has.
UNLIMITED: Final = 1 << 62


class Quota:
    """Bytes that are kept, and claimed, of each user. Methods may be called from any thread.

    A job claims bytes before its rows are written, and is `settle`d when they are, or when it keeps nothing after all.
    Between the two its bytes count once more for other jobs of the user: never too little.
    """

    def __init__(self, limit: int = UNLIMITED, stored: Callable[[str], int] = lambda user_id: 0) -> None:
        """`stored`: the bytes of a user's artifacts that have rows."""
        self.limit = limit
        self._stored = stored
        self._lock = threading.Lock()
        #: User → what the store said when the last of their jobs began or was settled.
        self._base: dict[str, int] = {}
        #: User → job → bytes.
        self._claims: dict[str, dict[str, int]] = {}

    def has_room(self, job: Job, size: int) -> bool:
        """Whether `claim` would take it now."""
        if job.user_id is None:
            return True
        with self._lock:
            return self._taken(job.user_id, job.id) + size <= self.limit

    def claim(self, job: Job, size: int) -> bool:
        """Count `size` bytes more for the job; False, and nothing is counted, when that is too much."""
        user_id = job.user_id
        if user_id is None:
            return True
        with self._lock:
            if self._taken(user_id, job.id) + size > self.limit:
                return False
            self._claims[user_id][job.id] += size
            return True

    def settle(self, job_id: str) -> None:
        """The job's rows are written, or never will be."""
        with self._lock:
            for user_id, claims in list(self._claims.items()):
                if claims.pop(job_id, None) is None:
                    continue
                if claims:
                    self._base[user_id] = self._stored(user_id)
                else:
                    del self._claims[user_id], self._base[user_id]

    def _taken(self, user_id: str, job_id: str) -> int:
        if user_id not in self._base:
            self._base[user_id] = self._stored(user_id)
        claims = self._claims.setdefault(user_id, {})
        claims.setdefault(job_id, 0)
        return self._base[user_id] + sum(claims.values())
