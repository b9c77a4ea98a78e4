"""The events of a run or of a single job, one at a time, and whether they form a recorded session."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeVar

from pytest_remote_ci.errors import ClientError, RunnerUnreachable
from pytest_remote_ci.terminal.ansi import SPECIAL, STEERING, clean, is_terminal
from pytest_remote_ci.wire import records as wire
from pytest_remote_ci.wire.events import Event, events_of

if TYPE_CHECKING:
    from pytest_remote_ci.terminal.display import Display

#: Newest version of the record format that is understood; all older ones are, too.
PROTOCOL = 2
_R = TypeVar("_R", bound=wire.Record)
#: Streams of a command that is not recorded; a recorded session can still follow output of other streams.
_TEXT = (None, "terminal")
#: Reasons for showing a session as text.
UNRECORDED_JOB = "this job was submitted without records"
OLD_RUNNER = "the runner records no sessions (it is older than this client)"


class EventSource:
    """Pulls events on demand, so none pile up locally; after an interruption it continues where it stopped."""

    def __init__(
        self,
        stream: Callable[[], Iterator[Event]] = lambda: iter(()),
        *,
        last: str = "complete",
        is_late: bool = False,
        is_over: bool = False,
    ) -> None:
        """`stream` yields the events that it has not yet yielded, up to the one of type `last`.

        Without it, the only events are the held ones. `is_late`: another process submitted the job; `is_over`: the
        job had ended before, so nothing is new.
        """
        self.is_late = is_late
        self.is_over = is_over
        self._stream = stream
        self._last = last
        self._events: Iterator[Event] | None = None
        self._held: deque[Event] = deque()
        self._is_closed = False
        self._safe = SafeEvents()
        #: Called before and after each wait for an event.
        self.on_wait: tuple[Callable[[], None], Callable[[], None]] = (lambda: None, lambda: None)
        #: The last event, once received.
        self.complete: Event | None = None
        #: Why `pull` gets no more events, although there are some.
        self.lost: ClientError | None = None

    def next(self) -> Event | None:
        """Return the next event; None after the last. Wait; raise `ClientError` if the runner stays unreachable."""
        if self._held:
            return self._held.popleft()
        if self.complete is not None or self._is_closed:
            return None
        if self._events is None:
            self._events = self._stream()
        begin, end = self.on_wait
        begin()
        try:
            event = next(self._events, None)
        except BaseException:
            self._events = None
            raise
        finally:
            end()
        if event is None:
            return None
        first, *others = events_of(self._safe(event.fields))
        if first.type == self._last:
            self.complete = first
        self.hold(others)
        return first

    def pull(self) -> Event | None:
        """Return the next event; None after the last, and from the first `ClientError` on."""
        if self.lost is not None:
            return None
        if self._held:  # almost always
            return self._held.popleft()
        try:
            return self.next()
        except ClientError as error:
            self.lost = error
            return None

    def read_ahead(self) -> None:
        """Wait for the last event, and hold all events for `next`. Raises `ClientError`."""
        events: list[Event] = []
        try:
            while (event := self.next()) is not None:
                events.append(event)
        finally:
            self.hold(events)

    def peek(self, kind: type[_R]) -> _R | None:
        """Return the first held record of this kind."""
        held = (event.valid_record for event in self._held if event.kind == kind.kind)
        return next((record for record in held if isinstance(record, kind)), None)

    def close(self) -> None:
        """Drop held events and wait for no more."""
        self._held.clear()
        self._is_closed = True

    def hold(self, events: list[Event]) -> None:
        """Put these events back, to be returned first."""
        self._held.extendleft(reversed(events))

    def pop_held(self) -> list[Event]:
        """Remove and return the held events."""
        held, self._held = list(self._held), deque()
        return held


class SafeEvents:
    """Removes characters that could control the terminal from events, before anything else uses them.

    If the output goes into a file, characters stay as a direct pytest would write them, and of the control sequences
    only colours remain. Output of tests is left to the code that writes it: a sequence can be cut between two such
    events.
    """

    def __init__(self) -> None:
        self._for_files = not is_terminal(sys.stdout)
        self._steering = STEERING if self._for_files else SPECIAL

    def __call__(self, event: Mapping[str, object]) -> Mapping[str, object]:
        """Return the event as it may be shown. Raises `RunnerUnreachable` for one that is nested too deeply."""
        if not self._is_steering(event):  # almost always
            return event
        try:
            safe = {str(self._safe(name)): self._safe(item) for name, item in event.items()}
        except RecursionError as error:
            raise RunnerUnreachable("the runner sent an event that is nested too deeply") from error
        if event.get("type") == "log" and "data" in event:
            safe["data"] = event["data"]
        return safe

    def _is_steering(self, event: Mapping[str, object]) -> bool:
        search = self._steering.search
        waiting: list[object] = [event]
        while waiting:
            value = waiting.pop()
            if isinstance(value, str):
                if search(value) is not None:
                    return True
            elif isinstance(value, dict):
                waiting += value
                waiting += value.values()
            elif isinstance(value, list):
                waiting += value
        return False

    def _safe(self, value: object) -> object:
        if isinstance(value, str):
            return value if self._steering.search(value) is None else clean(value, for_files=self._for_files)
        if isinstance(value, dict):
            return {self._safe(name): self._safe(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._safe(item) for item in value]
        return value


def why_not_recorded(event: Event, *, recorded: bool, unrecorded: str) -> str | None:
    """Return why this event, which precedes its session, means plain text, else None.

    `recorded`: the recorder has already written a record; if not, and pytest prints, the reason is `unrecorded`.
    """
    record = event.valid_record
    if event.kind == wire.Unavailable.kind:
        reason = record.reason if isinstance(record, wire.Unavailable) else ""
        return f"the session could not be recorded: {reason or 'no reason was given'}"
    if event.kind == wire.Recorder.kind:
        protocol = record.protocol if isinstance(record, wire.Recorder) else None
        return None if protocol in range(1, PROTOCOL + 1) else _other_version(protocol)
    if event.type == "log" and event.stream in _TEXT and not recorded:
        return unrecorded
    return None


def wait_for_session(feed: EventSource, display: Display, cwd: str) -> str | None:
    """Wait until the remote pytest begins to collect; return None if the session is recorded.

    Then `feed` yields the session from its beginning. Otherwise `feed` yields output to be shown as text, and the
    result is the reason. It is "" if pytest ended before its session began: its output is everything there is, and
    the remote project path in it is replaced by `cwd`, where pytest was started locally.
    """
    seen: list[Event] = []
    recorded = False
    there = cwd
    while True:
        event = feed.next()
        if event is None:
            return _as_text(feed, display, seen, "")  # cannot happen: `complete` comes last
        seen.append(event)
        if event.type == "complete":
            return _as_text(feed, display, _with_local_paths(seen, there, cwd), "")
        reason = why_not_recorded(
            event, recorded=recorded, unrecorded=UNRECORDED_JOB if feed.is_late else OLD_RUNNER
        )
        if reason is not None:
            return _as_text(feed, display, seen, reason)
        record = event.valid_record
        if isinstance(record, wire.Recorder):
            recorded, there = True, record.cwd or cwd
        elif isinstance(record, wire.Collecting):
            display.line.clear()
            feed.hold([event for event in seen if not is_text_only(event)])
            return None
        elif (event.type == "state" or event.stream == "runner") and not feed.is_over:
            display.show(seen.pop())


def _other_version(theirs: object) -> str:
    if isinstance(theirs, int) and theirs > PROTOCOL:
        return (
            f"the runner's records are of version {theirs}, newer than this client's {PROTOCOL}: upgrade it"
        )
    return f"the runner's records are of version {theirs}, older than this client's {PROTOCOL}: upgrade the runner"


def _as_text(feed: EventSource, display: Display, seen: list[Event], reason: str) -> str:
    feed.hold(seen)
    if reason:
        display.print_message(f"remote-ci: {reason}; showing pytest's text instead")
    return reason


def _with_local_paths(events: list[Event], there: str, here: str) -> list[Event]:
    """Return `events` with the remote project path replaced by the local one in their texts."""
    while there != here and PurePath(there).name == PurePath(here).name and PurePath(there).name:
        there, here = str(PurePath(there).parent), str(PurePath(here).parent)
    if there == here:
        return events
    return [
        event.with_text(event.text.replace(there, here)) if event.type == "log" else event for event in events
    ]


def is_text_only(event: Event) -> bool:
    """Whether a recorded session does not need the event: records contain the same."""
    return event.type == "state" or (event.type == "log" and event.stream in ("terminal", "runner"))
