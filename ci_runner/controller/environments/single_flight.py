"""Single flight: one thread does the work for a key, others wait for its result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TypeVar

from ci_runner.controller.environments.places import PreparationStopped
from ci_runner.errors import EnvironmentFailed

T = TypeVar("T")


class _Flight:
    def __init__(self) -> None:
        self.over = threading.Event()
        self.error: EnvironmentFailed | None = None


class SingleFlight:
    """Work in progress, by key. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, _Flight] = {}

    def once(
        self,
        key: Hashable,
        find: Callable[[], T | None],
        work: Callable[[], T],
        *,
        joined: Callable[[], object],
        stopping: Callable[[], bool],
    ) -> T:
        """Return the result of `find`, else of `work`. Calls `joined` if another thread is already working.

        If the working thread fails, all waiting ones fail, too; if it is stopped, one of them takes over.
        """
        has_joined = False
        while True:
            found = find()
            if found is not None:
                return found
            with self._lock:
                flight = self._flights.get(key)
                if flight is None:
                    mine = self._flights[key] = _Flight()
            if flight is None:
                return self._lead(key, mine, find, work)
            if not has_joined:
                joined()
                has_joined = True
            while not flight.over.wait(0.1):
                if stopping():
                    raise PreparationStopped("stopped while waiting for an environment")
            if flight.error is not None:
                raise EnvironmentFailed(str(flight.error))

    def _lead(self, key: Hashable, mine: _Flight, find: Callable[[], T | None], work: Callable[[], T]) -> T:
        try:
            found = find()  # it may have been finished since the first search
            return found if found is not None else work()
        except EnvironmentFailed as error:
            mine.error = error
            raise
        finally:
            with self._lock:
                del self._flights[key]
            mine.over.set()
