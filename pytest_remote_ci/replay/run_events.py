"""The events of a whole run, one at a time; after an interruption it continues where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pytest_remote_ci.replay.events import Event, SafeEvents

if TYPE_CHECKING:
    from pytest_remote_ci.client.runs import Runs
    from pytest_remote_ci.client.stream import EventStream


class RunEvents:
    """Pulls events on demand, so none pile up locally."""

    def __init__(
        self, runs: Runs, run_id: str, see: Callable[[Event], None], on_trouble: Callable[[str], None]
    ) -> None:
        """`see` is called with every event before it is returned."""
        self._runs = runs
        self._run_id = run_id
        self._see = see
        self._on_trouble = on_trouble
        self._stream: EventStream | None = None
        self._events: Iterator[Event] | None = None
        self._held: Event | None = None
        self._safe = SafeEvents()
        self._is_closed = False
        #: Called before and after each wait for an event.
        self.on_wait: tuple[Callable[[], None], Callable[[], None]] = (lambda: None, lambda: None)

    def next(self) -> Event | None:
        """Return the next event; None after `run_complete`. Raises `ClientError` if the runner stays unreachable."""
        held, self._held = self._held, None
        if held is not None or self._is_closed:
            return held
        begin, end = self.on_wait
        if self._events is None:
            after = 0 if self._stream is None else self._stream.last_seq
            self._stream = self._runs.stream(
                self._run_id, after=after, view="all", on_trouble=self._on_trouble
            )
            self._events = iter(self._stream)
        begin()
        try:
            event = next(self._events, None)
        except BaseException:
            self._events = None
            raise
        finally:
            end()
        if event is None:
            self._is_closed = True
            return None
        self._see(event)
        return self._safe(event)

    def hold(self, event: Event) -> None:
        """Put this event back, to be returned first."""
        self._held = event

    def close(self) -> None:
        """Wait for no more events."""
        self._held, self._is_closed = None, True
