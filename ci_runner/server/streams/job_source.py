"""Events on their way to clients: Server-Sent Events, one thread per open stream, woken by one poller.

A `Source` is pulled only while its client has room, so a slow client lags and costs no memory. Wake-ups are
hints: the poller asks the store's doorbell every 10 ms and tells the streams of jobs that have news; rows are
the truth. A stream ends only after `complete`; when the server stops, or the client's key is revoked, it ends
early and the client resumes by the number of the last event it saw. Frames are described in docs/reference/wire.md.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, Protocol

from ci_runner import failpoints
from ci_runner.errors import RunnerError
from ci_runner.model.job import Job, JobEvent, format_time, utcnow
from ci_runner.server.http.auth import Authenticator, Caller
from ci_runner.server.http.limits import Slot
from ci_runner.store import Doorbell, Sendable, Store

_log = logging.getLogger(__name__)

_PULLED = failpoints.register("server.stream.pulled", "events are read from the store, not yet sent")

View = Literal["log", "report", "all"]
VIEWS: Final = ("log", "report", "all")
ALREADY_COMPLETED: Final = "Job already completed.\n"

#: Bytes of JSON pulled at once.
BUDGET: Final = 64 * 1024
_RING_EVERY: Final = 0.010
#: Seconds between looks at clients and keys of open streams, and between looks without a ring.
_SWEEP_EVERY: Final = 0.5
_LOOK_EVERY: Final = 1.0
#: Seconds of silence after which a stream gives its database connection back.
_RELEASE_AFTER: Final = 1.0
#: Seconds between looks at a silent job itself: its end is an event, so only a deletion is seen this way.
_LOOK_AT_JOB_EVERY: Final = 5.0
_HEARTBEAT: Final = b": heartbeat\n\n"


def frame(data: Mapping[str, object], seq: int = 0) -> bytes:
    """One event as SSE: a single `data:` line of ASCII JSON, with an `id:` line when it is a stored event."""
    return _framed(json.dumps(data), seq)


def _framed(text: str, seq: int) -> bytes:
    return (f"id: {seq}\ndata: {text}\n\n" if seq else f"data: {text}\n\n").encode("ascii")


def is_visible(event: JobEvent, view: View) -> bool:
    """Whether `event` belongs to `view`."""
    return _belongs(event.type, view, lambda: event.fields.get("stream"))


def _belongs(kind: str, view: View, stream: Callable[[], object]) -> bool:
    """The same of an event of this type; `stream` tells where a log's text came from, if that matters."""
    if kind == "complete" or view == "all":
        return True
    if view == "log":
        return kind == "log"
    return kind != "log" or stream() != "terminal"


def complete_of(job: Job) -> dict[str, object]:
    """A `complete` event made from a job that is over, for one whose stored one is gone."""
    data: dict[str, object] = {"type": "complete", "success": job.success is True, "status": job.status}
    data |= {
        "exit_code": job.exit_code,
        "reason": job.reason,
        "timestamp": format_time(job.end_time or utcnow()),
    }
    return data | {"cancelled": True} if job.status == "cancelled" else data


class Source(Protocol):
    """Where a stream's frames come from."""

    #: Nothing will ever come again.
    done: bool

    def pull(self, budget: int) -> list[bytes]:
        """The next frames, of about `budget` bytes at most; [] when there is nothing now. Must not wait."""


class JobSource:
    """The events of one job after a cursor; one thread only."""

    def __init__(
        self, store: Store, job_id: str, cursor: int, view: View, first: tuple[bytes, ...] = ()
    ) -> None:
        """`first`: frames that come before any event."""
        self.done = False
        self._store = store
        self._job_id = job_id
        self._cursor = cursor
        self._view = view
        self._first = list(first)
        self._looked = -_LOOK_AT_JOB_EVERY

    def pull(self, budget: int) -> list[bytes]:
        """See `Source`."""
        frames, self._first = self._first, []
        while not frames and not self.done:
            events = self._store.events.sendable(self._job_id, self._cursor, max_bytes=budget)
            if not events:
                return self._at_the_end()
            for event in events:
                self._cursor = event.seq
                self.done = self.done or event.type == "complete"
                if self._shows(event):
                    frames.append(_framed(event.text, event.seq))
        return frames

    def _shows(self, event: Sendable) -> bool:
        """As `is_visible`, but only what must be read of an event is."""
        return _belongs(event.type, self._view, lambda: json.loads(event.text).get("stream"))

    def _at_the_end(self) -> list[bytes]:
        """Nothing is stored behind the cursor: wait, unless the job is over or gone."""
        now = time.monotonic()
        if now - self._looked < _LOOK_AT_JOB_EVERY:
            return []
        self._looked = now
        job = self._store.jobs.get(self._job_id)
        if job is None:
            self.done = True
            lost = {"type": "complete", "success": False, "status": "failed", "exit_code": None}
            lost["reason"] = "the job was deleted"
            return [frame({"type": "log", "data": "Job disappeared.\n", "stream": "runner"}), frame(lost)]
        if not job.is_over:
            return []
        self.done = True
        last = self._store.events.after(self._job_id, job.last_seq - 1)
        if last and last[-1].type == "complete":
            return [frame(last[-1].to_dict(), last[-1].seq)]
        return [frame(complete_of(job))]


class Listener:
    """Somebody who waits for news of one job, or of one run; made and ended by `Streams`."""

    def __init__(self, job_id: str, caller: Caller, disconnected: Callable[[], bool]) -> None:
        self.job_id = job_id
        self.caller = caller
        self.disconnected = disconnected
        self.news = threading.Event()
        #: No more frames are wanted: the client went, its key was revoked, or the server stops.
        self.ended = False

    def end(self) -> None:
        """Stop waiting, soon."""
        self.ended = True
        self.news.set()


class Streams:
    """Everything that is open, and the poller thread that wakes it."""

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
        """End every stream, now and from now on, and the poller."""
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
        """Be woken by news of the job until the block ends."""
        listener = self.add(job_id, caller, disconnected)
        try:
            yield listener
        finally:
            self.drop(listener)
            self.release()

    def add(self, job_id: str, caller: Caller, disconnected: Callable[[], bool]) -> Listener:
        """A listener, to be given to `drop` in the end."""
        listener = Listener(job_id, caller, disconnected)
        with self._lock:
            self._listeners.add(listener)
        if self._stopping.is_set():
            listener.end()
        return listener

    def drop(self, listener: Listener) -> None:
        """Wake `listener` no more; may be called twice."""
        with self._lock:
            self._listeners.discard(listener)

    def release(self) -> None:
        """Give back this thread's database connection; it must not be in the middle of anything."""
        self._store.release()

    def wait(self, listener: Listener, seconds: float) -> None:
        """Wait for news of the listener's job, at most so long; a long wait holds no database connection."""
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
                    self._look()
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

    def _look(self) -> None:
        """Wake the listeners of jobs whose newest number changed, or that are gone."""
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
        """End the listeners whose client is gone or whose key is no longer good."""
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


class StreamBody:
    """The body of a streaming response; the WSGI server iterates and, in any case, closes it."""

    def __init__(self, source: Source, streams: Streams, listener: Listener, slot: Slot) -> None:
        self._source = source
        self._streams = streams
        self._listener = listener
        self._slot = slot
        self._begun = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._begun:
            self._begun = True
            return b"retry: 1000\n\n"
        silent_until = time.monotonic() + self._streams.heartbeat
        while not self._listener.ended:
            self._listener.news.clear()
            frames = self._source.pull(BUDGET)
            if frames:
                failpoints.hit(_PULLED)
                return b"".join(frames)
            if self._source.done:
                break
            left = silent_until - time.monotonic()
            if left <= 0:
                return _HEARTBEAT
            self._streams.wait(self._listener, left)
        raise StopIteration

    def close(self) -> None:
        """Give back what the stream holds; called by the thread that iterated."""
        self._streams.release()
        self.__del__()

    def __del__(self) -> None:
        # Also for a body that was never iterated; in whatever thread, so nothing of a thread is touched here.
        self._streams.drop(self._listener)
        self._slot.close()
