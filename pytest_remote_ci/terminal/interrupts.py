"""Ctrl-C and SIGTERM during a run: the first one asks, the second one insists.

Both arrive as KeyboardInterrupt in the main thread. While a submission is waiting for its answer the first one is
only noted: leaving then would leave a job behind that nobody knows.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """Handles the signals inside of its ``with`` block; in other threads than the main one it does nothing."""

    def __init__(self, on_held: Callable[[], None] = lambda: None) -> None:
        """`on_held` is called when an interrupt is only noted, to say that it was."""
        self._on_held = on_held
        self._before: dict[int, Any] = {}
        self._shielded = False
        #: An interrupt that was noted and not raised.
        self.pending = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # ignored on purpose: in the background, under nohup
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def hold(self) -> None:
        """From now on note the first interrupt instead of raising it; the second is raised."""
        self._shielded = True

    def release(self) -> None:
        """Interrupts are raised again; one that was noted is raised now."""
        self._shielded = False
        if self.pending:
            self.pending = False
            raise KeyboardInterrupt

    def held_after(self, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """A progress that is told the same, and from the last byte on holds interrupts."""

        def told(done: int, total: int) -> None:
            if done >= total:
                self.hold()
            progress(done, total)

        return told

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._shielded and not self.pending:
            self.pending = True
            self._on_held()
            return
        self._shielded = False
        raise KeyboardInterrupt
