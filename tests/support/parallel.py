"""Work of several tests of one module, done a few at a time and before their turn.

Most of what such a test takes is waiting for other processes, so one after the other they leave the machine idle. Each
piece of work has a folder of its own, and everything it needs as arguments; the test that it is for gets what came of
it, or what it raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import pytest

Result = TypeVar("Result")

#: Pieces of work at a time: each keeps one or two processes busy.
WORKERS = 3


class Ahead(Generic[Result]):
    """Results by the arguments of their work."""

    def __init__(self, pool: ThreadPoolExecutor, work: Callable[..., Result]) -> None:
        self._pool = pool
        self._work = work
        self._started: dict[tuple[Any, ...], Future[Result]] = {}

    def start(self, *key: Any) -> Future[Result]:
        """Begin, if nobody has."""
        if key not in self._started:
            self._started[key] = self._pool.submit(self._work, *key)
        return self._started[key]

    def __call__(self, *key: Any) -> Result:
        """What comes of it; waits."""
        return self.start(*key).result()


@contextmanager
def ahead(
    work: Callable[..., Result], keys: Iterable[tuple[Any, ...]] = (), *, workers: int = WORKERS
) -> Iterator[Ahead[Result]]:
    """Begin with these; at the end what has not begun never will."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    try:
        results = Ahead(pool, work)
        for key in keys:
            results.start(*key)
        yield results
    finally:
        pool.shutdown(cancel_futures=True)


def parameters(request: pytest.FixtureRequest, *names: str) -> list[tuple[Any, ...]]:
    """Of the tests of this module that are going to run and have parameters of these names: their values."""
    found = []
    for item in request.session.items:
        if item.getparent(pytest.Module) is request.node:
            given = getattr(getattr(item, "callspec", None), "params", {})
            if set(names) <= set(given):
                found.append(tuple(given[name] for name in names))
    return found
