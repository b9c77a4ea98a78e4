"""All open streams, and the poller that wakes them: one thread per open stream, woken by one poller.

A `Source` is read only while its client has room, so a slow client lags and costs no memory. Wake-ups are only hints:
the poller checks the store's doorbell every 10 ms and wakes the streams of jobs and runs with news; the rows decide. A
stream normally ends only after its last event. If the server stops or the client's key is revoked, it ends early, and
the client resumes with the number of its last event. Frames are described in docs/reference/wire.md.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from ci_runner.errors import RunnerError
from ci_runner.server.http.auth import Authenticator, Caller
from ci_runner.store import Doorbell, Store

_log = logging.getLogger(__name__)

_RING_EVERY: Final = 0.010
#: Seconds between checks of clients and keys of open streams, and between looks without a ring.
_SWEEP_EVERY: Final = 0.5
_LOOK_EVERY: Final = 1.0
#: Seconds of silence after which a stream releases its database connection.
_RELEASE_AFTER: Final = 1.0


class Listener:
    """A waiter for news of one job, or of one run; made and ended by `Streams`."""

    def __init__(self, job_id: str, caller: Caller, disconnected: Callable[[], bool]) -> None:
        self.job_id = job_id
        self.caller = caller
        self.disconnected = disconnected
        self.news = threading.Event()
        #: No more frames are wanted: the client disconnected, its key was revoked, or the server stops.
        self.ended = False

    def end(self) -> None:
        """Stop waiting, soon."""
        self.ended = True
        self.news.set()


class Streams:
    """All open streams, and the poller thread that wakes them."""

    def __init__(self, store: Store, authenticator: Authenticator, heartbeat: float) -> None:
        self.heartbeat = heartbeat
        self._store = store
        self._authenticator = authenticator
        self._lock = threading.Lock()
        self._listeners: set[Listener] = set()
        self._newest: dict[str, int] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the poller."""
        self._thread = threading.Thread(target=self._run, name="stream-poller", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End every present and future stream, and the poller."""
        self._stopping.set()
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.end()
        if self._thread is not None:
            self._thread.join()

    def __len__(self) -> int:
        with self._lock:
            return len(self._listeners)

    @contextlib.contextmanager
    def listen(self, job_id: str, caller: Caller, disconnected: Callable[[], bool]) -> Iterator[Listener]:
        """Wake the listener at news of the job until the block ends."""
        listener = self.add(job_id, caller, disconnected)
        try:
            yield listener
        finally:
            self.drop(listener)
            self.release()

    def add(self, job_id: str, caller: Caller, disconnected: Callable[[], bool]) -> Listener:
        """Return a listener, which must later be passed to `drop`."""
        listener = Listener(job_id, caller, disconnected)
        with self._lock:
            self._listeners.add(listener)
        if self._stopping.is_set():
            listener.end()
        return listener

    def drop(self, listener: Listener) -> None:
        """Stop waking `listener`; may be called twice."""
        with self._lock:
            self._listeners.discard(listener)

    def release(self) -> None:
        """Release this thread's database connection; it must not be in use."""
        self._store.release()

    def wait(self, listener: Listener, seconds: float) -> None:
        """Wait for news of the listener's job, at most `seconds`; a long wait holds no database connection."""
        if not listener.news.wait(min(seconds, _RELEASE_AFTER)) and seconds > _RELEASE_AFTER:
            self._store.release()
            listener.news.wait(seconds - _RELEASE_AFTER)

    # -- the poller's thread

    def _run(self) -> None:
        bell: Doorbell | None = None
        looked = swept = 0.0
        while not self._stopping.wait(_RING_EVERY):
            try:
                bell = bell or self._store.doorbell()
                now = time.monotonic()
                if bell.rang() or now - looked >= _LOOK_EVERY:
                    looked = now
                    self._wake_listeners()
                if now - swept >= _SWEEP_EVERY:
                    swept = now
                    self._sweep()
            except RunnerError as error:
                _log.warning("event streams cannot be woken now: %s", error)
                self._stopping.wait(1.0)
            except Exception:
                _log.exception("event streams cannot be woken now")
                self._stopping.wait(1.0)
        if bell is not None:
            bell.close()
        self._store.release()

    def _wake_listeners(self) -> None:
        """Wake the listeners of jobs that have a new newest number, or are deleted."""
        with self._lock:
            listeners = list(self._listeners)
        if not listeners:
            self._newest = {}
            return
        wanted = {listener.job_id for listener in listeners}
        newest = self._store.jobs.newest(wanted)
        if newest.keys() != wanted:  # the others are runs
            newest |= self._store.runs.newest(wanted - newest.keys())
        for listener in listeners:
            number = newest.get(listener.job_id)
            if number is None or number != self._newest.get(listener.job_id):
                listener.news.set()
        self._newest = newest

    def _sweep(self) -> None:
        """End listeners if their client disconnected or their key is no longer valid."""
        with self._lock:
            listeners = list(self._listeners)
        valid: dict[str, bool] = {}
        for listener in listeners:
            token = listener.caller.token
            if token not in valid:
                valid[token] = self._authenticator.still_valid(listener.caller)
            if not valid[token] or listener.disconnected():
                listener.end()
        self._authenticator.flush()
