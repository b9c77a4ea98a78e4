"""One thread does the work for a key, the others wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from ci_runner.controller.environments.builds import PreparationStopped
from ci_runner.errors import EnvironmentFailed

T = TypeVar("T")


class _Flight:
    def __init__(self) -> None:
        self.over = threading.Event()
        self.error: EnvironmentFailed | None = None


class Flights:
    """Work under way, by key. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, _Flight] = {}

    def once(
        self,
        key: Hashable,
        look: Callable[[], T | None],
        work: Callable[[], T],
        *,
        joined: Callable[[], Any],
        stopping: Callable[[], bool],
    ) -> T:
        """What `look` finds, else what `work` makes. `joined` is called when somebody else is at it already.

        A failure of the one who works is the failure of all who wait; when it is stopped, one of them takes over.
        """
        told = False
        while True:
            found = look()
            if found is not None:
                return found
            with self._lock:
                flight = self._flights.get(key)
                if flight is None:
                    mine = self._flights[key] = _Flight()
            if flight is None:
                return self._lead(key, mine, look, work)
            if not told:
                joined()
                told = True
            while not flight.over.wait(0.1):
                if stopping():
                    raise PreparationStopped("stopped while waiting for an environment")
            if flight.error is not None:
                raise EnvironmentFailed(str(flight.error))

    def _lead(self, key: Hashable, mine: _Flight, look: Callable[[], T | None], work: Callable[[], T]) -> T:
        try:
            found = look()  # it may have been finished since the first look
            return found if found is not None else work()
        except EnvironmentFailed as error:
            mine.error = error
            raise
        finally:
            with self._lock:
                del self._flights[key]
            mine.over.set()
