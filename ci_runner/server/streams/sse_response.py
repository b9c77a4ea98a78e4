"""The response that is a stream of events: a slot, a source, and the body that the server iterates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final

import falcon

from ci_runner import failpoints
from ci_runner.server.http.auth import Caller, caller_of
from ci_runner.server.http.limits import Slot, StreamSlots, acquire_slot
from ci_runner.server.parameters import AFTER, LAST_EVENT_ID
from ci_runner.server.streams.hub import Listener, Streams
from ci_runner.server.streams.source import Source
from ci_runner.store import Store

_PULLED = failpoints.register("server.stream.pulled", "events are read from the store, not yet sent")

#: Bytes of JSON read at once.
BUDGET: Final = 64 * 1024
_HEARTBEAT: Final = b": heartbeat\n\n"


class Admission:
    """A stream slot, held until it is passed to a response or its block ends."""

    def __init__(
        self, responder: StreamResponder, slot: Slot, caller: Caller, gone: Callable[[], bool]
    ) -> None:
        self.caller = caller
        self.disconnected = gone
        self._responder = responder
        self._slot: Slot | None = slot

    def stream(self, resp: falcon.Response, source: Source) -> None:
        """Make the response a stream of the source's frames."""
        assert self._slot is not None
        streams = self._responder.streams
        listener = streams.add(source.subject, self.caller, self.disconnected)
        resp.content_type = "text/event-stream"
        resp.set_header("Cache-Control", "no-cache, no-transform")
        resp.set_header("X-Accel-Buffering", "no")
        resp.stream = StreamBody(source, streams, listener, self._slot)
        self._slot = None

    def __enter__(self) -> Admission:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._slot is not None:
            self._slot.close()


class StreamResponder:
    """Dependencies shared by all streaming routes."""

    def __init__(self, store: Store, streams: Streams, slots: StreamSlots) -> None:
        self.store = store
        self.streams = streams
        self._slots = slots

    def admit(self, req: falcon.Request) -> Admission:
        """Take a stream slot for the caller; raises `TooManyRequests` or `TemporaryError`."""
        caller = caller_of(req)
        gone = req.env.get("waitress.client_disconnected", lambda: False)
        return Admission(self, acquire_slot(self._slots, req), caller, gone)


def cursor_of(req: falcon.Request) -> int | None:
    """Return the number of the client's last event, if the request has one; raises `InvalidSubmission`."""
    header = LAST_EVENT_ID.given(req)
    return AFTER.given(req) if header is None else header


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
            self._streams.wait(self._listener, min(left, self._source.look_again))
        raise StopIteration

    def close(self) -> None:
        """Release the stream's resources; called by the thread that iterated."""
        self._streams.release()
        self.__del__()

    def __del__(self) -> None:
        # Also for a body that was never iterated, and in any thread, so nothing that belongs to a thread is used.
        self._streams.drop(self._listener)
        self._slot.close()
