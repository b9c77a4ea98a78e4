"""Worker threads shared fairly: owners of requests take turns, and each has a limited share of the threads.

The owner is a user if a known key identifies it, else a client address. Quick responses that need neither database
nor disk (`/health`, refusals) have separate threads, so that they are sent even while all others are busy.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from typing import Final, Protocol

from waitress.task import ThreadedTaskDispatcher

_QUICK_THREADS: Final = 2


class Work(Protocol):
    """A piece of work for a worker thread."""

    @property
    def owner(self) -> str | None:
        """The requesting user or address; None: quick work that waits for nothing."""

    def service(self) -> None:
        """Do the work."""

    def cancel(self) -> None:
        """Cancel the work; the server stops."""


class _Turn:
    """One piece of work while it waits or runs."""

    def __init__(self, queue: FairQueue, owner: str, work: Work) -> None:
        self.owner = owner
        self.counted = True
        self._queue = queue
        self._work = work

    def service(self) -> None:
        self._queue.current.turn = self
        try:
            self._work.service()
        finally:
            self._queue.current.turn = None
            self._queue.finish(self)

    def cancel(self) -> None:
        self._work.cancel()


class FairQueue:
    """The dispatcher's queue: one line per owner, in turns; used under the dispatcher's lock."""

    def __init__(self, dispatcher: FairDispatcher, share: int) -> None:
        self.current = threading.local()
        self._dispatcher = dispatcher
        self._share = share
        self._running: Counter[str] = Counter()
        #: Lines of owners that may get a thread now, next turn first; and of owners that use their whole share.
        self._ready: OrderedDict[str, deque[_Turn]] = OrderedDict()
        self._held: dict[str, deque[_Turn]] = {}

    def append(self, work: Work) -> None:
        """Add work at the end of its owner's line."""
        owner = work.owner or ""
        lines = self._held if self._running[owner] >= self._share else self._ready
        lines.setdefault(owner, deque()).append(_Turn(self, owner, work))

    def popleft(self) -> _Turn:
        """Return the next piece of work; raises IndexError if none may run now."""
        if not self._ready:
            raise IndexError
        owner, line = self._ready.popitem(last=False)
        turn = line.popleft()
        self._running[owner] += 1
        if line:
            (self._held if self._running[owner] >= self._share else self._ready)[owner] = line
        return turn

    def finish(self, turn: _Turn) -> None:
        """Free the place of `turn`; takes the dispatcher's lock, and may be called twice."""
        with self._dispatcher.lock:
            if not turn.counted:
                return
            turn.counted = False
            self._running[turn.owner] -= 1
            if not self._running[turn.owner]:
                del self._running[turn.owner]
            line = self._held.pop(turn.owner, None)
            if line is not None:
                self._ready[turn.owner] = line
                self._dispatcher.queue_cv.notify()

    def drain(self) -> None:
        """Cancel all waiting work."""
        for lines in (self._ready, self._held):
            while lines:
                _, line = lines.popitem()
                for turn in line:
                    turn.cancel()

    def __bool__(self) -> bool:
        return bool(self._ready)

    def __len__(self) -> int:
        return sum(map(len, self._ready.values()))


class FairDispatcher(ThreadedTaskDispatcher):
    """Waitress' threads behind a `FairQueue`."""

    def __init__(self, threads: int, share: int) -> None:
        """`share`: maximum number of threads per owner; streams are not counted, they have their own limits."""
        super().__init__()
        self._turns = FairQueue(self, share)
        self.queue = self._turns  # type: ignore[assignment]  # it has what Waitress uses of a deque
        self._quick = ThreadedTaskDispatcher()
        self._quick.set_thread_count(_QUICK_THREADS)
        self.set_thread_count(threads)

    def add_task(self, task: Work) -> None:  # type: ignore[override]  # Waitress' tasks have no owner
        """Queue one piece of work."""
        if task.owner is None:
            self._quick.add_task(task)  # type: ignore[arg-type]  # it has the methods of one
        else:
            with self.lock:
                self._turns.append(task)
                self.queue_cv.notify()

    def detach(self) -> None:
        """Stop counting the calling thread's work for its owner, because it became a stream."""
        turn = getattr(self._turns.current, "turn", None)
        if turn is not None:
            self._turns.finish(turn)

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        """End all threads, waiting at most `timeout` seconds."""
        with self.lock:
            self._turns.drain()
        self._quick.shutdown(timeout=1)
        # The stubs allow no fractions of seconds.
        return bool(super().shutdown(cancel_pending, timeout))  # type: ignore[arg-type]
