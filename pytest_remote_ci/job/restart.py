"""The worker's view of a recorded session: the records, captured output, and whether to start pytest again.

pytest keeps a test's captured output in files that vanish when it dies, and with them the last output of the test
that caused it. So these files are passed to the worker. Standard library only.
"""

from __future__ import annotations

import _socket  # importing `socket` takes milliseconds
import array
import contextlib
import json
import os
import stat
from types import ModuleType
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from .worker import Job

#: Bytes of a test's captured output, taken from its end.
_KEPT = 65536
#: pytest's titles for it, in the order in which the files are sent.
_CAPTURED = ("Captured stdout call", "Captured stderr call")


class Recording:
    """The records of one job, created and held open by the worker, so that deleting the file has no effect."""

    def __init__(self, folder: str, sizes: Callable[[], dict[str, int]], job: Job) -> None:
        """`folder`: the spool; `sizes()`: the present sizes of its output files in bytes."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._folder, self._sizes = folder, sizes
        self._records = os.open(os.path.join(folder, "records"), flags, 0o644)
        self._left = int(job.get("restarts") or 0)
        self._limits = [
            str(job.get("memory") or ""),
            str(job.get("file_size") or ""),
            str(job.get("shm_size") or ""),
        ]
        self._here: _socket.socket | None = None
        self._there: _socket.socket | None = None
        #: How pytest died the first time, and the exit code for that.
        self.died, self.code = "", 0

    def connect(self) -> int:
        """Prepare a start of pytest; return the descriptor by which it sends the files of captured output.

        They wait in the socket, even after pytest has died, until they are received.
        """
        self._close()
        self._here, self._there = _socket.socketpair()
        return self._there.fileno()

    def record_stopped(self) -> None:
        """Record that the job was asked to stop, which explains the records that follow."""
        with contextlib.suppress(OSError):
            stopped = _load("wire.records", "_remote_ci").Stopped()
            os.write(self._records, json.dumps(stopped.dump()).encode() + b"\n")

    def should_restart(self, code: int, killed: str | None, *, oom: bool, stopped: bool) -> bool:
        """Return whether to start pytest again after this end; if not, set `code` and `died` to the outcome."""
        sections = self._sections()
        if killed is None and _returned(self._records) == code:
            self.code = code or self.code
            return False
        crash = _load("crash")  # few jobs need it
        resolution = crash.CrashResolution(self._folder, self._records, self._sizes)
        if killed is None and resolution.status is not None:  # it was ended after its session
            self.code = code or resolution.status or self.code
            return False
        how = crash.ending(code, killed, oom=oom, limits=crash.Limits(*self._limits))
        again = bool(resolution.resolve(how, sections, restarts=self._left, stopped=stopped))
        self.died = self.died or resolution.words
        self.code = self.code or resolution.code
        self._left -= again
        return again

    def _sections(self) -> list[tuple[str, str]]:
        """Return the captured output that pytest had not read yet."""
        sections = []
        for name, handle in zip(_CAPTURED, self._receive()):
            with contextlib.suppress(OSError):
                status = os.fstat(handle)
                start = max(0, status.st_size - _KEPT)
                text = os.pread(handle, _KEPT, start) if stat.S_ISREG(status.st_mode) else b""
                if text:
                    sections.append((name, text.decode("utf-8", "replace")))
            os.close(handle)
        return sections

    def _receive(self) -> list[int]:
        handles = array.array("i")
        if self._here is None:
            return []
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


def _load(*names: str) -> ModuleType:
    """Import a module of this folder, or of another package, as `boot` does."""
    module: ModuleType = __import__("boot").load(*names)  # next to this file
    return module


def _returned(handle: int) -> int | None:
    """Return the exit status that pytest itself returned, if that is the last record.

    Every job gets here, so the records' module, which takes milliseconds to import, is not used.
    """
    size = os.fstat(handle).st_size
    with contextlib.suppress(ValueError, TypeError, KeyError, IndexError, OSError, RecursionError):
        line = os.pread(handle, 4096, max(0, size - 4096)).split(b"\n")[-2]
        record = json.loads(line)
        if record["t"] == "returned":
            return int(record["exitstatus"])
    return None
