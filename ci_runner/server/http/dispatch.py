"""Worker threads shared fairly: requests are taken in turn by who asks, and nobody has more than a share of them.

Whoever asks is a user where a known key says so, else a client address. Short answers that need neither database nor
disk (`/health`, refusals) have threads of their own, so that they come even while all others are busy.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from typing import Any, Final, Protocol

from waitress.task import ThreadedTaskDispatcher

_QUICK_THREADS: Final = 2


class Work(Protocol):
    """What a worker thread does."""

    @property
    def owner(self) -> str | None:
        """Who asked; None: it is quick and waits for nothing."""

    def service(self) -> None:
        """Do it."""

    def cancel(self) -> None:
        """Give it up; the server stops."""


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
    """The dispatcher's queue: one line per owner, taken in turn; used under the dispatcher's lock."""

    def __init__(self, dispatcher: FairDispatcher, share: int) -> None:
        self.current = threading.local()
        self._dispatcher = dispatcher
        self._share = share
        self._running: Counter[str] = Counter()
        #: Owners that may have a thread now, next turn first; and those that have their share of them.
        self._ready: OrderedDict[str, deque[_Turn]] = OrderedDict()
        self._held: dict[str, deque[_Turn]] = {}

    def append(self, work: Work) -> None:
        """Add work at the end of its owner's line."""
        owner = work.owner or ""
        lines = self._held if self._running[owner] >= self._share else self._ready
        lines.setdefault(owner, deque()).append(_Turn(self, owner, work))

    def popleft(self) -> _Turn:
        """Take the next piece of work; raises IndexError when none may run now."""
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
        """Cancel all that waits."""
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
        """`share`: the most threads that one owner has at once; streams beside it have limits of their own."""
        super().__init__()
        self.queue: Any = FairQueue(self, share)
        self._quick = ThreadedTaskDispatcher()
        self._quick.set_thread_count(_QUICK_THREADS)
        self.set_thread_count(threads)

    def add_task(self, task: Any) -> None:
        """Queue one piece of work."""
        if task.owner is None:
            self._quick.add_task(task)
        else:
            with self.lock:
                self.queue.append(task)
                self.queue_cv.notify()

    def detach(self) -> None:
        """Let the calling thread's work no longer count for its owner: it became a stream."""
        turn = getattr(self.queue.current, "turn", None)
        if turn is not None:
            self.queue.finish(turn)

    def shutdown(self, cancel_pending: bool = True, timeout: Any = 5) -> bool:
        """End all threads, waiting for at most so long."""
        with self.lock:
            self.queue.drain()
        self._quick.shutdown(timeout=1)
        return bool(super().shutdown(cancel_pending, timeout))
