"""What the developer sees while there is no output yet: one line that rewrites itself, on a terminal only.

Where stderr is no terminal the same facts come as plain lines, once each, so that logs of scripts stay readable.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from pytest_remote_ci.terminal import formats
from pytest_remote_ci.terminal.ansi import is_terminal, plain
from pytest_remote_ci.wire.control_characters import escaped_lines

_CLEAR = "\r\x1b[K"
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
#: Seconds between two drawings of a bar.
_INTERVAL = 0.1


class StatusLine:
    """A dim line at the bottom of a terminal that is gone before anything else is written."""

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self.is_terminal = is_terminal(self._stream)
        self._clock = clock
        self._shown = False
        self._drawn_at = float("-inf")

    def show(self, text: str, *, hurried: bool = False) -> None:
        """Replace the line; nothing where the stream is no terminal.

        Hurried texts are drawn at most ten times a second.
        """
        if not self.is_terminal:
            return
        now = self._clock()
        if hurried and now - self._drawn_at < _INTERVAL:
            return
        self._drawn_at = now
        width = max(20, shutil.get_terminal_size().columns - 1)
        clean = plain(text)
        if len(clean) > width:
            clean = clean[: width - 1] + "…"
        self._write(f"{_CLEAR}{_DIM}{clean}{_PLAIN}")
        self._shown = True

    def clear(self) -> None:
        """Remove the line, before other output."""
        if self._shown:
            self._shown = False
            self._write(_CLEAR)

    def say(self, text: str) -> None:
        """A lasting line of our own; texts of others in it come without what steers a terminal."""
        self.clear()
        self._write(escaped_lines(text) + "\n")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except UnicodeEncodeError:
            self._stream.write(text.encode("ascii", "replace").decode("ascii"))
            self._stream.flush()
        except (OSError, ValueError):  # nobody watches stderr: the run goes on
            self.is_terminal = False


class Bar:
    """Progress of a known number of bytes on a `StatusLine`; callable as a progress callback."""

    def __init__(self, line: StatusLine, label: str) -> None:
        self._line = line
        self._label = label

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` bytes."""
        share = done / total if total else 1.0
        filled = round(share * 24)
        bar = "█" * filled + "░" * (24 - filled)
        sizes = f"{formats.size(done)} of {formats.size(total)}"
        self._line.show(f"{self._label} {bar} {share:4.0%}  {sizes}", hurried=done < total)
