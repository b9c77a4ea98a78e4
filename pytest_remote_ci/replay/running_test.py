"""Show the running test on a terminal that has been silent for a while.

pytest prints only results, so a silent session does not show which test is running, and a remote one cannot be
inspected. The name appears, dim, behind the text of the current line, and is erased before anything else is printed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Generator
from typing import Protocol

import pytest

from pytest_remote_ci.replay.pytest_internals import terminal_file, terminal_writer
from pytest_remote_ci.terminal.ansi import is_terminal, plain

#: Seconds of silence before a name is shown, and between two checks.
PATIENCE, _INTERVAL = 2.0, 0.25
#: Minimum number of free columns.
_LEAST_ROOM = 12
_SAVE, _RESTORE, _ERASE_REST = "\x1b7", "\x1b8", "\x1b[K"
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class Waiting(Protocol):
    """An event source with hooks around each wait."""

    #: Called before and after each wait for an event.
    on_wait: tuple[Callable[[], None], Callable[[], None]]


class RunningLine:
    """A plugin of one session; `begin` and `end` enclose each wait for an event, so nothing else is printed then."""

    def __init__(
        self,
        reporter: pytest.TerminalReporter,
        clock: Callable[[], float] = time.monotonic,
        *,
        is_alone: bool = False,
    ) -> None:
        """`reporter`: pytest's terminal reporter; `is_alone`: it does not write a test's name before the result."""
        self._is_alone = is_alone
        self._reporter = reporter
        self._clock = clock
        self._lock = threading.Lock()
        self._over = threading.Event()
        #: Node id → start time by `clock`.
        self._tests: dict[str, float] = {}
        self._waits_since: float | None = None
        self._is_shown = False

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, None, None]:
        """Run the watching thread while tests run."""
        thread = threading.Thread(target=self._watch, name="remote-ci-running", daemon=True)
        thread.start()
        yield
        self._over.set()
        thread.join()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Add a running test."""
        self._tests[nodeid] = self._clock()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Remove a test that has finished."""
        self._tests.pop(nodeid, None)

    def begin(self) -> None:
        """Note that a wait begins, during which nothing else is printed."""
        with self._lock:
            self._waits_since = self._clock()

    def end(self) -> None:
        """Note that the wait is over, and erase the name."""
        with self._lock:
            self._waits_since = None
            if self._is_shown:
                self._is_shown = False
                self._write(_ERASE_REST)

    def update(self) -> None:
        """Show the running test, if the wait is long enough."""
        with self._lock:
            now = self._clock()
            if self._waits_since is None or not self._tests or now - self._waits_since < PATIENCE:
                return
            text = self._text(now)
            width = shutil.get_terminal_size().columns
            room = (
                width - getattr(terminal_writer(self._reporter), "width_of_current_line", width) % width - 2
            )
            if room >= min(_LEAST_ROOM, len(text)):
                text = text if len(text) <= room else "…" + text[len(text) - room + 1 :]
                self._is_shown = True
                self._write(f"{_SAVE}{_ERASE_REST} {_DIM}{text}{_PLAIN}{_RESTORE}")

    def _text(self, now: float) -> str:
        nodeid, began = min(self._tests.items(), key=lambda item: item[1])
        words = f"{now - began:.0f} s"
        if len(self._tests) > 1:
            words = f"{words}, and {len(self._tests) - 1} more"
        is_named = self._reporter.verbosity > 0 and self._reporter.showlongtestinfo and not self._is_alone
        if not is_named or len(self._tests) > 1:
            words = f"{nodeid} {words}"  # otherwise the reporter already wrote it in this line
        return plain(words)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError, UnicodeError):  # the next write will fail, too
            file = terminal_file(terminal_writer(self._reporter))
            if file is not None:
                file.write(text)
                file.flush()

    def _watch(self) -> None:
        while not self._over.wait(_INTERVAL):
            self.update()


def watch(config: pytest.Config, feed: Waiting, *, is_alone: bool = False) -> RunningLine | None:
    """Register a `RunningLine` if the terminal supports it and tests do not print directly; else return None."""
    reporter: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    file = terminal_file(terminal_writer(reporter))
    parts = ("verbosity", "showlongtestinfo")
    if (
        reporter is None
        or file is None
        or not all(hasattr(reporter, name) for name in parts)
        or not is_terminal(file)
    ):
        return None
    if os.environ.get("TERM") in (None, "dumb") or config.getoption("capture", None) == "no":
        return None
    line = RunningLine(reporter, is_alone=is_alone)
    feed.on_wait = (line.begin, line.end)
    config.pluginmanager.register(line, "remote-ci-running")
    return line
