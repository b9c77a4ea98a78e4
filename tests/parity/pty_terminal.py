"""A command on a terminal of its own, as a person has it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

#: Seconds that anything may take.
PATIENCE = 120.0


class Terminal:
    """The command's standard output, and by choice its standard error, is a terminal of `columns`."""

    def __init__(
        self,
        command: list[str],
        cwd: Path,
        env: Mapping[str, str],
        columns: int = 80,
        *,
        errors: bool = False,
    ) -> None:
        self._ours, theirs = pty.openpty()
        self._command, self.text = command, ""
        self._set_size(theirs, columns)
        env = {
            key: value
            for key, value in env.items()
            if key not in ("COLUMNS", "LINES", "NO_COLOR", "PY_COLORS")
        }
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env | {"TERM": "xterm"},
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs if errors else subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def resize(self, columns: int) -> None:
        """As when the window is."""
        self._set_size(self._ours, columns)
        self._process.send_signal(signal.SIGWINCH)

    def read_until(self, words: str) -> None:
        """Until these words were printed."""
        deadline = time.monotonic() + PATIENCE
        while words not in self.text:
            assert time.monotonic() < deadline, self.text
            assert self._read(1.0), f"no {words!r} in {self.text!r}"

    def end(self) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(1.0):
            assert time.monotonic() < deadline, self.text
        return self._process.wait(PATIENCE)

    def _read(self, seconds: float) -> bool:
        if select.select([self._ours], [], [], seconds)[0]:
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # the other end is closed
                return False
            self.text += data.decode(errors="replace")
            return bool(data)
        return True

    @staticmethod
    def _set_size(handle: int, columns: int) -> None:
        fcntl.ioctl(handle, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
