"""Handling of Ctrl-C, SIGTERM and SIGHUP (a closed terminal) during a run.

All raise KeyboardInterrupt in the main thread. While a submission waits for its answer, the first interrupt is only
recorded: leaving at that moment would abandon a job without knowing its id.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))


class Interrupts:
    """Context manager that handles the signals. It has no effect outside of the main thread."""

    def __init__(self, on_held: Callable[[], None] = lambda: None) -> None:
        """Register `on_held`, which is called when an interrupt is only recorded."""
        self._on_held = on_held
        self._before: dict[int, Callable[[int, FrameType | None], object] | int] = {}
        self._shielded = False
        #: Descriptors of outputs that are terminals.
        self._terminals: list[int] = []
        #: Whether an interrupt was recorded and not yet raised.
        self.pending = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._terminals = [handle for handle in (1, 2) if os.isatty(handle)]
            for number in _SIGNALS:
                before = signal.getsignal(number)
                # None: not set by Python. Ignored on purpose: in the background, under nohup.
                if before is not None and before != signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def hold(self) -> None:
        """From now on, record the first interrupt instead of raising it. The second is raised."""
        self._shielded = True

    def release(self) -> None:
        """Raise interrupts again, including one that was recorded."""
        self._shielded = False
        if self.pending:
            self.pending = False
            raise KeyboardInterrupt

    def held_after(self, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """Return a progress callback that calls `progress` and holds interrupts from the last byte on."""

        def report(done: int, total: int) -> None:
            if done >= total:
                self.hold()
            progress(done, total)

        return report

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number not in (signal.SIGINT, signal.SIGTERM):
            self._discard_lost_output()
        if self._shielded and not self.pending:
            self.pending = True
            self._on_held()
            return
        self._shielded = False
        raise KeyboardInterrupt

    def _discard_lost_output(self) -> None:
        """Discard what is written to a terminal that was closed: errors there must not prevent the cancellation."""
        for handle in self._terminals:
            if not os.isatty(handle):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, handle)
                os.close(null)
