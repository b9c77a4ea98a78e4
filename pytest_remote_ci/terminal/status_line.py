"""Status line while there is no output yet: one line that is rewritten in place, on a terminal only.

If stderr is not a terminal, the same facts are printed as plain lines, once each, so that logs of scripts stay
readable.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from pytest_remote_ci.terminal.ansi import is_terminal, plain
from pytest_remote_ci.terminal.output import Shown
from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.control_characters import escaped_lines

_CLEAR = "\r\x1b[K"
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
#: Seconds between two redraws of a bar.
_INTERVAL = 0.1


class StatusLine:
    """A dim line at the bottom of a terminal. It must be cleared before other output."""

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self.is_terminal = is_terminal(self._stream)
        self._clock = clock
        self._shown = False
        #: Ends a line that another writer has begun on this terminal; called before anything is written.
        self.end_other_line: Callable[[], None] = lambda: None
        self._drawn_at = float("-inf")

    def show(self, text: str, *, hurried: bool = False) -> None:
        """Replace the line, if the stream is a terminal.

        With `hurried`, it is redrawn at most ten times a second.
        """
        if not self.is_terminal:
            return
        now = self._clock()
        if hurried and now - self._drawn_at < _INTERVAL:
            return
        self._drawn_at = now
        if not self._shown:
            self.end_other_line()
        width = max(20, shutil.get_terminal_size().columns - 1)
        clean = plain(text)
        if len(clean) > width:
            clean = clean[: width - 1] + "…"
        self._write(f"{_CLEAR}{_DIM}{clean}{_PLAIN}")
        self._shown = True
        Shown.clear = self.clear

    def clear(self) -> None:
        """Remove the line, before other output."""
        if self._shown:
            self._shown = False
            self._write(_CLEAR)

    def print_message(self, text: str) -> None:
        """Print a permanent line. Control characters in it are escaped."""
        self.clear()
        self.end_other_line()
        self._write(escaped_lines(text) + "\n")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except UnicodeEncodeError:
            self._stream.write(text.encode("ascii", "replace").decode("ascii"))
            self._stream.flush()
        except (OSError, ValueError):  # stderr is closed: continue without it
            self.is_terminal = False


class Bar:
    """Progress bar for a known number of bytes on a `StatusLine`, usable as a progress callback."""

    def __init__(self, line: StatusLine, label: str) -> None:
        self._line = line
        self._label = label

    def __call__(self, done: int, total: int) -> None:
        """Show `done` of `total` bytes."""
        share = done / total if total else 1.0
        filled = round(share * 24)
        bar = "█" * filled + "░" * (24 - filled)
        sizes = f"{formats.size(done)} of {formats.size(total)}"
        self._line.show(f"{self._label} {bar} {share:4.0%}  {sizes}", hurried=done < total)
