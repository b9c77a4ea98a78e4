"""Turn a response into a stream."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import falcon

from ci_runner.server.http.auth import Caller, caller_of
from ci_runner.server.http.limits import Slot, StreamSlots, take_slot
from ci_runner.server.parameters import AFTER, LAST_EVENT_ID, View
from ci_runner.server.streams.job_stream import JobSource, Source, StreamBody, Streams
from ci_runner.server.streams.run_stream import RunSource
from ci_runner.store import Store


class Admission:
    """A stream slot, held until it is passed to a response or its block ends."""

    def __init__(
        self, responder: StreamResponder, slot: Slot, caller: Caller, gone: Callable[[], bool]
    ) -> None:
        self.caller = caller
        self.disconnected = gone
        self._responder = responder
        self._slot: Slot | None = slot

    def stream(
        self, resp: falcon.Response, job_id: str, cursor: int, view: View, first: tuple[bytes, ...]
    ) -> None:
        """Make the response a stream of the job's events after `cursor`, with `first` before them."""
        self._stream(resp, job_id, JobSource(self._responder.store, job_id, cursor, view, first))

    def stream_run(self, resp: falcon.Response, run_id: str, cursor: int, view: View) -> None:
        """Make the response a stream of the events of all the run's jobs after `cursor`."""
        self._stream(resp, run_id, RunSource(self._responder.store, run_id, cursor, view))

    def _stream(self, resp: falcon.Response, subject: str, source: Source) -> None:
        assert self._slot is not None
        streams = self._responder.streams
        listener = streams.add(subject, self.caller, self.disconnected)
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
        return Admission(self, take_slot(self._slots, req), caller, gone)


def cursor_of(req: falcon.Request) -> int | None:
    """Return the number of the client's last event, if the request has one; raises `InvalidSubmission`."""
    header = LAST_EVENT_ID.given(req)
    return AFTER.given(req) if header is None else header
