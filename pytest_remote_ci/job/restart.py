"""What the worker knows of a recorded session while it runs, and what it decides when pytest has ended.

Beside the records (see `records`) these are the files in which pytest keeps what a test writes: they would be gone
with a pytest that dies, and with them the last words of whatever killed it. Standard library only.
"""

from __future__ import annotations

import _socket  # `socket` itself takes milliseconds to import
import array
import contextlib
import json
import os
import stat
from typing import Any, Callable

#: Bytes of the end of what a test had written.
_KEPT = 65536
#: What pytest calls that, in the order in which the files are handed over.
_CAPTURED = ("Captured stdout call", "Captured stderr call")


class Recording:
    """The records of one job, made here and kept open, so that deleting the file changes nothing."""

    def __init__(self, folder: str, sizes: Callable[[], dict[str, int]], job: dict[str, Any]) -> None:
        """`folder`: the spool; `sizes()`: bytes of its files of output by now."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._folder, self._sizes = folder, sizes
        self._records = os.open(os.path.join(folder, "records"), flags, 0o644)
        self._left = int(job.get("restarts") or 0)
        self._memory = str(job.get("memory") or "")
        self._here: Any = None
        self._there: Any = None
        #: The first time that pytest died, in words, and the exit code that this comes to.
        self.died, self.code = "", 0

    def connect(self) -> int:
        """Before a start of pytest: the descriptor by which it hands over the files of its captured output.

        They wait in the socket, also beyond the death of whoever sent them, until somebody asks.
        """
        self._close()
        self._here, self._there = _socket.socketpair()
        return int(self._there.fileno())

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
        aftermath = __import__("crash")  # beside this file; few jobs need it
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
        for name, handle in zip(_CAPTURED, self._receive()):
            with contextlib.suppress(OSError):
                status = os.fstat(handle)
                start = max(0, status.st_size - _KEPT)
                text = os.pread(handle, _KEPT, start) if stat.S_ISREG(status.st_mode) else b""
                if text:
                    sections.append([name, text.decode("utf-8", "replace")])
            os.close(handle)
        return sections

    def _receive(self) -> list[int]:
        handles = array.array("i")
        with contextlib.suppress(OSError, ValueError):
            room = _socket.CMSG_SPACE(len(_CAPTURED) * handles.itemsize)
            _, messages, _, _ = self._here.recvmsg(1, room, _socket.MSG_DONTWAIT | _socket.MSG_CMSG_CLOEXEC)
            for level, kind, data in messages:
                if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                    handles.frombytes(data[: len(data) - len(data) % handles.itemsize])
        return list(handles)

    def _close(self) -> None:
        for end in (self._here, self._there):
            if end is not None:
                end.close()


def _returned(handle: int) -> int | None:
    """The exit status with which pytest itself came back, if that is the last thing the records say."""
    size = os.fstat(handle).st_size
    with contextlib.suppress(ValueError, TypeError, KeyError, IndexError, OSError, RecursionError):
        line = os.pread(handle, 4096, max(0, size - 4096)).split(b"\n")[-2]
        record = json.loads(line)
        if record["t"] == "returned":
            return int(record["exitstatus"])
    return None
