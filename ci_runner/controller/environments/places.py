"""Places for builds, shared out by user: a user's builds that never end do not block other users.

One user has at most `most` builds at once, and one more place is only for a user who has none. Of those who wait, the
user with the fewest builds comes first, then the one served longest ago, then the one who has waited longest.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ci_runner.errors import RunnerError

#: Seconds between two questions whether the caller still waits.
_ASK: Final = 0.2


class PreparationStopped(RunnerError):
    """The caller no longer wants the preparation (cancelled, timed out)."""


@dataclass(eq=False)
class _Holder:
    """A job that has a place; its builds at the same time share it."""

    user: str
    builds: int = 1


@dataclass(frozen=True, eq=False)
class _Waiter:
    user: str
    job_id: str


class BuildPlaces:
    """The places of one controller. Thread-safe."""

    def __init__(self, most: int) -> None:
        """`most`: jobs of one user that build at once; one further job, of another user, may build beside them."""
        self._places = max(1, most) + 1
        self._changed = threading.Condition()
        self._holders: dict[str, _Holder] = {}
        #: In the order of arrival.
        self._waiting: list[_Waiter] = []
        self._turns = itertools.count(1)
        #: User → number of their last turn.
        self._served: dict[str, int] = {}

    @contextlib.contextmanager
    def taken(self, user: str, job_id: str, stopping: Callable[[], bool]) -> Iterator[None]:
        """Hold a place for a job of `user`; wait for one unless the job has it already.

        Raises `PreparationStopped` once `stopping` returns true.
        """
        waiter = _Waiter(user, job_id)
        with self._changed:
            self._waiting.append(waiter)
        try:
            while not self._occupy(waiter):
                if stopping():
                    raise PreparationStopped("stopped before the environment was built")
        finally:
            with self._changed:
                self._waiting.remove(waiter)
                self._changed.notify_all()
        try:
            yield
        finally:
            self._release(job_id)

    def _occupy(self, waiter: _Waiter) -> bool:
        """Take a place if it is the waiter's turn; otherwise wait a moment for a change."""
        with self._changed:
            holder = self._holders.get(waiter.job_id)
            if holder is not None:
                holder.builds += 1
                return True
            if self._next() is waiter:
                self._holders[waiter.job_id] = _Holder(waiter.user)
                self._served[waiter.user] = next(self._turns)
                return True
            self._changed.wait(_ASK)
            return False

    def _next(self) -> _Waiter | None:
        free = self._places - len(self._holders)
        if free == 0:
            return None
        able = [waiter for waiter in self._waiting if free > 1 or not self._count(waiter.user)]
        return min(
            able,
            key=lambda waiter: (self._count(waiter.user), self._served.get(waiter.user, 0)),
            default=None,
        )

    def _count(self, user: str) -> int:
        return sum(holder.user == user for holder in self._holders.values())

    def _release(self, job_id: str) -> None:
        with self._changed:
            holder = self._holders[job_id]
            holder.builds -= 1
            if not holder.builds:
                del self._holders[job_id]
            # A user who has no build and waits for none has no turn to remember.
            active = {held.user for held in self._holders.values()} | {
                waiter.user for waiter in self._waiting
            }
            self._served = {user: turn for user, turn in self._served.items() if user in active}
            self._changed.notify_all()
