"""Streams of events as Server-Sent Events: one thread per open stream, woken by one poller.

A `Source` is read only while its client has room, so a slow client lags and costs no memory. Wake-ups are only hints:
the poller checks the store's doorbell every 10 ms and wakes the streams of jobs with news; the rows decide. A stream
normally ends only after `complete`. If the server stops or the client's key is revoked, it ends early, and the client
resumes with the number of its last event. Frames are described in docs/reference/wire.md.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from ci_runner import failpoints
from ci_runner.errors import RunnerError
from ci_runner.model.job import Job, JobEvent, format_time, utcnow
from ci_runner.server.http.auth import Authenticator, Caller
from ci_runner.server.http.limits import Slot
from ci_runner.server.parameters import View
from ci_runner.store import Doorbell, Sendable, Store

_log = logging.getLogger(__name__)

_PULLED = failpoints.register("server.stream.pulled", "events are read from the store, not yet sent")

ALREADY_COMPLETED: Final = "Job already completed.\n"

#: Bytes of JSON read at once.
BUDGET: Final = 64 * 1024
_RING_EVERY: Final = 0.010
#: Seconds between checks of clients and keys of open streams, and between looks without a ring.
_SWEEP_EVERY: Final = 0.5
_LOOK_EVERY: Final = 1.0
#: Seconds of silence after which a stream releases its database connection.
_RELEASE_AFTER: Final = 1.0
#: Seconds between looks at a silent job: its end is an event, so only a deletion is found this way.
_LOOK_AT_JOB_EVERY: Final = 5.0
_HEARTBEAT: Final = b": heartbeat\n\n"


def frame(data: Mapping[str, object], seq: int = 0) -> bytes:
    """Return one event as SSE: a single `data:` line of ASCII JSON, with an `id:` line for a stored event."""
    return _framed(json.dumps(data), seq)


def _framed(text: str, seq: int) -> bytes:
    return (f"id: {seq}\ndata: {text}\n\n" if seq else f"data: {text}\n\n").encode("ascii")


def is_visible(event: JobEvent, view: View) -> bool:
    """Return whether `event` belongs to `view`."""
    return _belongs(event.type, view, lambda: event.fields.get("stream"))


def _belongs(kind: str, view: View, stream: Callable[[], object]) -> bool:
    """Return the same as `is_visible`; `stream` returns the origin of a log's text, if needed."""
    if kind == "complete" or view == "all":
        return True
    if view == "log":
        return kind == "log"
    return kind != "log" or stream() != "terminal"


def complete_of(job: Job) -> dict[str, object]:
    """Return a `complete` event made from a job that is over, for a job without a stored one."""
    data: dict[str, object] = {"type": "complete", "success": job.success is True, "status": job.status}
    data |= {
        "exit_code": job.exit_code,
        "reason": job.reason,
        "timestamp": format_time(job.end_time or utcnow()),
    }
    return data | {"cancelled": True} if job.status == "cancelled" else data


class Source(Protocol):
    """A source of a stream's frames."""

    #: There will be no more frames.
    done: bool

    def pull(self, budget: int) -> list[bytes]:
        """Return the next frames, about `budget` bytes at most; [] if there are none now. Must not wait."""


class JobSource:
    """The events of one job after a cursor; for one thread only."""

    def __init__(
        self, store: Store, job_id: str, cursor: int, view: View, first: tuple[bytes, ...] = ()
    ) -> None:
        """`first`: frames that are sent before any event."""
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
        """Return the same as `is_visible`, but parse the event only if necessary."""
        return _belongs(event.type, self._view, lambda: json.loads(event.text).get("stream"))

    def _at_the_end(self) -> list[bytes]:
        """Handle the end of the stored events: wait, unless the job is over or deleted."""
        now = time.monotonic()
        if now - self._looked < _LOOK_AT_JOB_EVERY:
            return []
        self._looked = now
        job = self._store.get_job(self._job_id, events=False)
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


class StreamBody:
    """The body of a streaming response; the WSGI server iterates it, and always closes it."""

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
        """Release the stream's resources; called by the thread that iterated."""
        self._streams.release()
        self.__del__()

    def __del__(self) -> None:
        # Also for a body that was never iterated, and in any thread, so nothing that belongs to a thread is used.
        self._streams.drop(self._listener)
        self._slot.close()
