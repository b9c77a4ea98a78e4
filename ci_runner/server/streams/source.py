"""What a stream of events is read from: one interface, for the events of a job and of a run."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Final

from ci_runner.model.job import JobEvent
from ci_runner.server.parameters import View

#: Seconds between checks of a silent subject: its end is an event, so only a deletion is found this way.
_CHECK_EVERY: Final = 5.0


class Source(ABC):
    """The frames of one job's or run's events after a cursor; for one thread only."""

    def __init__(self, subject: str, cursor: int, view: View, first: tuple[bytes, ...] = ()) -> None:
        """`subject`: the id of the job or run. `first`: frames that are sent before any event."""
        self.subject = subject
        #: There will be no more frames.
        self.done = False
        #: Seconds after which `pull` may have frames though there is no new event.
        self.look_again = math.inf
        self._cursor = cursor
        self._view: View = view
        self._first = list(first)
        self._checked = -_CHECK_EVERY

    def pull(self, budget: int) -> list[bytes]:
        """Return the next frames, about `budget` bytes at most; [] if there are none now. Does not wait."""
        frames, self._first = self._first, []
        while not frames and not self.done:
            if not self._read(frames, budget):
                return self._at_the_end()
        return frames

    @abstractmethod
    def _read(self, frames: list[bytes], budget: int) -> bool:
        """Append the next events that the view shows; return whether there were any at all."""

    @abstractmethod
    def _ending(self) -> list[bytes] | None:
        """Return the frames that end a stream without its last event; None if the subject is not over."""

    def _at_the_end(self) -> list[bytes]:
        """Handle the end of the stored events: wait, unless the subject is over or deleted."""
        now = time.monotonic()
        if now - self._checked < _CHECK_EVERY:
            return []
        self._checked = now
        ending = self._ending()
        self.done = ending is not None
        return ending or []


def frame(data: Mapping[str, object], seq: int = 0) -> bytes:
    """Return one event as SSE: a single `data:` line of ASCII JSON, with an `id:` line for a stored event."""
    return framed(json.dumps(data), seq)


def framed(text: str, seq: int) -> bytes:
    """Return the same as `frame` from an event's JSON."""
    return (f"id: {seq}\ndata: {text}\n\n" if seq else f"data: {text}\n\n").encode("ascii")


def is_visible(event: JobEvent, view: View) -> bool:
    """Return whether `event` belongs to `view`."""
    return belongs(event.type, view, lambda: event.fields.get("stream"))


def belongs(kind: str, view: View, stream: Callable[[], object]) -> bool:
    """Return the same as `is_visible`; `stream` returns the origin of a log's text, if needed."""
    if kind == "complete" or view == "all":
        return True
    if view == "log":
        return kind == "log"
    return kind != "log" or stream() != "terminal"
