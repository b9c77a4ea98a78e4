"""A job's events, from any event up to `complete`, resumed after network failures.

Events are numbered, so a broken connection is resumed after the last event seen, and nothing is lost or repeated. If
something between client and runner buffers streams, the same events are fetched by polling instead.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote

from pytest_remote_ci.client.retry import Backoff
from pytest_remote_ci.client.transport import Interrupted, Transport, is_timeout
from pytest_remote_ci.errors import JobNotFound, RunnerUnreachable, SubmissionRefused
from pytest_remote_ci.wire.answers import AnswerError, events_in
from pytest_remote_ci.wire.events import Event

if TYPE_CHECKING:
    import requests

#: Called with a line of text about an interruption, and the seconds after which the stream gives up.
OnTrouble = Callable[[str, "float | None"], None]

#: Seconds without a byte at the beginning of a stream, two heartbeats, after which polling starts.
_SILENCE = 20.0
#: Number of consecutive streams that ended without a byte after which polling starts, too.
_SILENT_STREAMS = 2
_HELD_BACK = "something between here and the runner holds its stream back"
#: Seconds that the runner may hold a polling request.
_WAIT = 20
#: A stream that lasted this many seconds does not count as a failure, even without an event.
_LONG_LIVED = 5.0


class EventStream:
    """Iterable of a job's events that ends after `complete`. It can be iterated once.

    `after` is the number of the last event already seen. `on_trouble` is called with one line of text about every
    interruption, and the seconds after which it gives up; None for the first one in a row. Raises
    `RunnerUnreachable` if the runner is away for more than `patience` seconds in a row, or if the job does not end
    within `time_limit` seconds in all.
    """

    def __init__(
        self,
        transport: Transport,
        job_id: str,
        *,
        from_beginning: bool = True,
        after: int = 0,
        view: str | None = None,
        patience: float = 300.0,
        time_limit: float | None = None,
        on_trouble: OnTrouble | None = None,
        sleep: Callable[[float], None] = time.sleep,
        of_run: bool = False,
    ) -> None:
        self._transport = transport
        self._job_id = job_id
        #: Whether the id is that of a run of a pipeline. Its stream ends after `run_complete`.
        self._of_run = of_run
        self._from_beginning = from_beginning
        self._view = view
        self._patience = patience
        self._on_trouble = on_trouble
        self._sleep = sleep
        #: Number of the last event seen; 0 before the first.
        self.last_seq = after
        #: Whether events are fetched by polling, because streams do not get through.
        self.polling = False
        #: Whether the runner is an older one that has no such route for runs.
        self._cannot_poll = False
        self._silent_streams = 0
        #: Of the present connection: whether anything was received, whether it was accepted and stayed silent until
        #: its end, and whether that was for too long.
        self._received = self._was_silent = self._has_timed_out = False
        #: Whether anything was received from any connection.
        self._was_heard = False
        #: Whether the runner has answered, or may have. From then on, a missing answer is an interruption.
        self._has_connected = after > 0
        self._ends_at = float("inf") if time_limit is None else time.monotonic() + time_limit

    def __iter__(self) -> Iterator[Event]:
        backoff = Backoff(self._patience, self._sleep)
        while True:
            began = time.monotonic()
            self._received = self._was_silent = self._has_timed_out = False
            retry_after = 0.0
            with closing(self._portions() if self.polling else self._stream()) as events:
                try:
                    for event in events:
                        self._has_connected = True
                        backoff.contact()
                        yield event
                        if event.type == ("run_complete" if self._of_run else "complete"):
                            return
                    trouble = "the stream ended before the job did"
                except Interrupted as error:
                    if error.refused and not self._has_connected:
                        raise RunnerUnreachable(str(error)) from error
                    trouble, retry_after = str(error), error.retry_after
                    self._has_timed_out = error.timed_out
                    self._was_silent = self._was_silent or error.timed_out
                except JobNotFound as error:
                    if not (self.polling and self._of_run) or self._received:
                        raise
                    self.polling, self._cannot_poll, self._was_silent = False, True, True
                    trouble = str(error)
                except SubmissionRefused as error:
                    if error.status != 429:
                        raise
                    trouble, retry_after = str(error), error.retry_after
            self._has_connected = True
            now = time.monotonic()
            if self._received:
                backoff.contact(forgive=now - began > _LONG_LIVED)
            trouble = self._poll_if_silent() or trouble
            backoff.fail()
            if backoff.is_exhausted or now > self._ends_at:
                raise RunnerUnreachable(
                    f"{trouble}; {self._job_id} may still be running, reconnect to it later"
                )
            if self._on_trouble is not None:
                self._on_trouble(trouble, None if backoff.failures == 1 else backoff.seconds_left)
            backoff.wait(retry_after)

    def _poll_if_silent(self) -> str:
        """Poll from now on if the stream was opened and nothing arrived; return what to say about that."""
        if self._received:
            self._silent_streams = 0
        if self._received or not self._was_silent or self.polling:
            return ""
        self._silent_streams += 1
        if not self._has_timed_out and self._silent_streams < _SILENT_STREAMS:
            return ""
        if self._cannot_poll:
            return f"{_HELD_BACK}: set `proxy_buffering off;` (nginx) or `flush_interval -1` (Caddy)"
        if not (self._from_beginning or self.last_seq):
            return ""
        self.polling = True
        return f"{_HELD_BACK}: asking for events instead"

    def _stream(self) -> Generator[Event, None, None]:
        """Yield the events of one connection."""
        import sseclient

        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        params: dict[str, str] = {}
        if self._from_beginning:
            params["from_beginning"] = "true"
        if self._view is not None:
            params["view"] = self._view
        if self.last_seq:
            headers["Last-Event-ID"] = str(self.last_seq)
        path = f"/{'runs' if self._of_run else 'jobs'}/{quote(self._job_id, safe='')}/stream"
        patience = None if self._was_heard else min(_SILENCE, self._transport.read_timeout)
        response = self._transport.send(
            "GET", path, params=params, headers=headers, stream=True, read_timeout=patience
        )
        self._was_silent = True
        with closing(response):
            for frame in sseclient.SSEClient(_Chunks(response, self._note_contact)).events():
                event = _event(frame.data)
                seq = int(frame.id) if frame.id and frame.id.isdigit() else 0
                if seq and seq <= self.last_seq:
                    continue
                self.last_seq = seq or self.last_seq
                yield event

    def _portions(self) -> Generator[Event, None, None]:
        """Yield events by polling, without end."""
        path = f"/{'runs' if self._of_run else 'jobs'}/{quote(self._job_id, safe='')}/events"
        while True:
            params: dict[str, str | int] = {"after": self.last_seq, "wait": _WAIT}
            if self._view is not None:
                params["view"] = self._view
            with self._transport.send("GET", path, params=params, read_timeout=_WAIT + 25) as response:
                self._note_contact()
                try:
                    events = events_in(response.json())
                except AnswerError as error:
                    raise Interrupted("the runner sent something that is not a list of events") from error
                except ValueError as error:
                    raise Interrupted(f"the runner's answer is not JSON ({error})") from error
            before = self.last_seq
            for event in events:
                if event.seq > self.last_seq:
                    self.last_seq = event.seq
                    yield event
            if events and self.last_seq == before:
                raise Interrupted("the runner's events have no numbers")
            if not events and not self._received:
                return
            self._received = True

    def _note_contact(self) -> None:
        self._received = self._was_heard = True
        if time.monotonic() > self._ends_at:
            raise RunnerUnreachable(f"job {self._job_id} has not ended in time")


class _Chunks(Iterator[bytes]):
    """A response's chunks as they arrive, for `sseclient`. The response itself would yield 128 bytes at a time."""

    def __init__(self, response: requests.Response, on_bytes: Callable[[], None]) -> None:
        self._response = response
        self._chunks: Iterator[bytes] = response.iter_content(chunk_size=None)
        self._on_bytes = on_bytes

    def __next__(self) -> bytes:
        import requests

        try:
            chunk = next(self._chunks)
        except requests.RequestException as error:
            raise Interrupted("the connection broke", timed_out=is_timeout(error)) from error
        self._on_bytes()
        return chunk

    def close(self) -> None:
        self._response.close()


def _event(data: str) -> Event:
    """Parse an event. A truncated last frame counts as a broken connection: it is sent again in full."""
    try:
        fields = json.loads(data)
    except RecursionError as error:
        raise RunnerUnreachable("the runner sent an event that is nested too deeply") from error
    except ValueError as error:
        raise Interrupted("the stream ended in the middle of an event") from error
    if not isinstance(fields, dict):
        raise Interrupted("the runner sent something that is not an event")
    return Event(fields)
