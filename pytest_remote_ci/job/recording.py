"""What the worker knows of a recorded session while it runs, and what it decides when pytest has ended.

Beside the records (see `records`) these are the files in which pytest keeps what a test writes: they would be gone
with a pytest that dies, and with them the last words of whatever killed it. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import Any, Callable

#: Bytes of the end of what a test had written.
_KEPT = 65536
#: Descriptors of standard output and error, and how pytest calls what it captured there.
_CAPTURED = {1: "Captured stdout call", 2: "Captured stderr call"}


class Recording:
    """The records of one job, made here and kept open, so that deleting the file changes nothing."""

    def __init__(self, folder: str, sizes: Callable[[], dict[str, int]], job: dict[str, Any]) -> None:
        """`folder`: the spool; `sizes()`: bytes of its files of output by now."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._folder, self._sizes = folder, sizes
        self._records = os.open(os.path.join(folder, "records"), flags, 0o644)
        self._left = int(job.get("restarts") or 0)
        self._memory = str(job.get("memory") or "")
        self._output = {_identity(os.stat(os.path.join(folder, name))) for name in ("stdout", "stderr")}
        #: Descriptor of pytest → the file behind it, open here.
        self._captured: dict[int, int] = {}
        #: The first time that pytest died, in words, and the exit code that this comes to.
        self.died, self.code = "", 0

    def watch(self, pid: int) -> None:
        """Hold on to the files into which pytest captures output; called often."""
        for number in _CAPTURED:
            with contextlib.suppress(OSError):
                path = f"/proc/{pid}/fd/{number}"
                identity = _identity(os.stat(path))
                held = self._captured.get(number)
                if identity in self._output or (held is not None and _identity(os.fstat(held)) == identity):
                    continue
                handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    os.close(handle)
                    continue
                self._forget(number)
                self._captured[number] = handle

    def say_stopped(self) -> None:
        """The job was asked to stop: what pytest says from here on is said for that."""
        with contextlib.suppress(OSError):
            os.write(self._records, json.dumps({"t": "stopped"}).encode() + b"\n")

    def goes_on(self, code: int, killed: str | None, *, oom: bool, stopped: bool) -> bool:
        """Whether pytest, which ended so, is to be started again; else `code` and `died` say what it comes to."""
        sections = self._sections()
        if killed is None and _returned(self._records) == code:
            self.code = code or self.code
            return False
        aftermath = __import__("aftermath")  # beside this file; few jobs need it
        settlement = aftermath.Settlement(self._folder, self._records, self._sizes)
        if killed is None and settlement.status is not None:  # it was ended when its session was over
            self.code = code or settlement.status or self.code
            return False
        how = aftermath.ending(code, killed, oom=oom, memory=self._memory)
        again = bool(settlement.settle(how, sections, restarts=self._left, stopped=stopped))
        self.died = self.died or settlement.words
        self.code = self.code or settlement.code
        self._left -= again
        return again

    def _sections(self) -> list[list[str]]:
        """What pytest had captured and not yet taken."""
        sections = []
        for number, name in _CAPTURED.items():
            with contextlib.suppress(KeyError, OSError):
                handle = self._captured[number]
                start = max(0, os.fstat(handle).st_size - _KEPT)
                text = os.pread(handle, _KEPT, start).decode("utf-8", "replace")
                if text:
                    sections.append([name, text])
            self._forget(number)
        return sections

    def _forget(self, number: int) -> None:
        handle = self._captured.pop(number, None)
        if handle is not None:
            os.close(handle)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _returned(handle: int) -> int | None:
    """The exit status with which pytest itself came back, if that is the last thing the records say."""
    size = os.fstat(handle).st_size
    with contextlib.suppress(ValueError, TypeError, KeyError, IndexError, OSError):
        line = os.pread(handle, 4096, max(0, size - 4096)).split(b"\n")[-2]
        record = json.loads(line)
        if record["t"] == "returned":
            return int(record["exitstatus"])
    return None
