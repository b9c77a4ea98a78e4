"""Backoff for requests to a runner: growing pauses with jitter, until patience ends."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

#: Seconds; the first pause is at most twice `_FIRST`.
_FIRST: Final = 0.25
_LONGEST: Final = 10.0


class Backoff:
    """Counter of an operation's consecutive failures, with a pause after each."""

    def __init__(self, patience: float, sleep: Callable[[float], None] = time.sleep) -> None:
        """Set `patience`: the seconds that the operation may go without contact to the runner."""
        self._patience = patience
        self._sleep = sleep
        self._last_contact = time.monotonic()
        self.failures = 0

    def contact(self, *, forgive: bool = True) -> None:
        """Restart the patience; with `forgive`, also reset the failures, so that pauses are short again."""
        self._last_contact = time.monotonic()
        if forgive:
            self.failures = 0

    def fail(self) -> None:
        """Count a failure."""
        self.failures += 1

    @property
    def is_exhausted(self) -> bool:
        """Whether the last contact was longer ago than the patience allows."""
        return time.monotonic() - self._last_contact > self._patience

    @property
    def seconds_left(self) -> float:
        """The seconds after which the patience ends."""
        return max(0.0, self._patience - (time.monotonic() - self._last_contact))

    def wait(self, retry_after: float = 0.0) -> None:
        """Sleep before the next attempt, for at least `retry_after` seconds."""
        self._sleep(pause(self.failures, retry_after))


def pause(failures: int, retry_after: float = 0.0) -> float:
    """Return the seconds to wait after consecutive failures: growing, with jitter, at least `retry_after`."""
    longest = min(_LONGEST, _FIRST * 2.0 ** min(failures, 10))
    return max(random.uniform(longest / 2, longest), retry_after)  # noqa: S311 - spreads clients, keeps no secret
