"""Waitress taught three things: refuse uploads after their head, drop dawdlers, speak JSON in errors.

Only the hook points of Waitress 3.0 are used (`parser_class`, `error_task_class`, `channel_class`). The gate
runs on the thread that serves every connection: it looks at headers and at numbers in memory, never at a
database.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from waitress.buffers import OverflowableBuffer, TempfileBasedBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.task import ErrorTask
from waitress.utilities import Error

from ci_runner.server.auth import NOT_AUTHENTICATED, bearer_token

#: Seconds for the head of a request; seconds until a body must flow; bytes per second from then on.
HEAD_SECONDS: Final = 15.0
BODY_GRACE: Final = 30.0
BODY_RATE: Final = 1000.0
#: Seconds for which a refused client is still listened to, so that it reads the answer before the end.
LINGER: Final = 2.0
#: Routes whose bodies are large; whoever shows no credentials need not send one.
_WITH_KEY: Final = ("/submit", "/blobs/", "/runs")
#: Seconds for which a look at the free disk is good.
_DISK_LOOK: Final = 0.5


@dataclass(frozen=True)
class Gate:
    """What a request's head is judged by."""

    uploads: Path
    #: Bytes of a body.
    max_upload: int
    #: Bytes that must stay free.
    disk_reserve: int


class Refusal(Error):  # an answer, no exception
    """An answer that is given before the body is read."""

    def __init__(self, code: int, reason: str, detail: str, *headers: tuple[str, str]) -> None:
        super().__init__(detail)
        self.code = code
        self.reason = reason
        self.headers = headers


class JsonErrorTask(ErrorTask):
    """Errors of the server itself in the contract's form."""

    def execute(self: Any) -> None:
        """Answer and close."""
        error = self.request.error
        body = json.dumps({"detail": _detail(error)}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.response_headers.extend(getattr(error, "headers", ()))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


def _detail(error: Any) -> str:
    if isinstance(error, Refusal):
        return str(error.body)
    if error.code == 413:
        return "The body is larger than this runner takes"
    return str(error.reason) if error.code == 500 else f"{error.reason}: {error.body}"


class _UploadFile(TempfileBasedBuffer):
    """Waitress' buffer in a temporary file, in a folder of our choice."""

    def __init__(self, folder: Path, from_buffer: Any = None) -> None:
        self._folder = folder
        super().__init__(from_buffer)

    def newfile(self) -> Any:
        return tempfile.TemporaryFile("w+b", dir=self._folder)  # closed with the request


class UploadBuffer(OverflowableBuffer):
    """A body too large for memory goes to an unnamed file in the data directory, not to /tmp."""

    def __init__(self, overflow: int, folder: Path) -> None:
        super().__init__(overflow)
        self._folder = folder

    def _set_large_buffer(self: Any) -> None:
        self.buf = _UploadFile(self._folder, self.buf)
        self.overflowed = True


class Disk:
    """Free space less what accepted bodies will still take; the I/O thread reserves, any thread releases."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._free = 0
        self._looked = 0.0
        self._reserved: list[int] = []

    def reserve(self, size: int) -> bool:
        """Set `size` bytes of a body aside; False when that would touch the reserve."""
        now = time.monotonic()
        if now - self._looked > _DISK_LOOK:
            self._free = shutil.disk_usage(self._gate.uploads).free
            self._looked = now
        # Twice: the body waits on disk while its contents are kept.
        if self._free - 2 * (sum(self._reserved) + size) < self._gate.disk_reserve:
            return False
        self._reserved.append(size)
        return True

    def release(self, size: int) -> None:
        """Give back what `reserve` took."""
        with contextlib.suppress(ValueError):
            self._reserved.remove(size)


class GatedParser(HTTPRequestParser):
    """Refuses after the head, before the first byte of a body is kept."""

    #: Set by `channel_class`.
    gate: Gate
    disk: Disk
    judged = False
    reserved = 0

    def received(self, data: bytes) -> int:
        consumed: int = super().received(data)
        if self.headers_finished and not self.judged and not self.empty:
            self.judged = True
            if self.body_rcv is not None and (self.error is None or self.error.code == 413):
                self._judge()
            if self.error is not None:
                self.completed = True
                self.expect_continue = False
        return consumed

    def _judge(self: Any) -> None:
        length = self.content_length
        if self.path.startswith(_WITH_KEY) and not bearer_token(self.headers.get("AUTHORIZATION")):
            self.error = Refusal(401, "Unauthorized", NOT_AUTHENTICATED, ("WWW-Authenticate", "Bearer"))
        elif length > self.gate.max_upload:
            text = f"The body has {length} bytes; this runner takes at most {self.gate.max_upload}"
            self.error = Refusal(413, "Content Too Large", text)
        elif self.error is None and not self.disk.reserve(length):
            text = "The runner's disk is full; nothing was kept"
            self.error = Refusal(507, "Insufficient Storage", text, ("Retry-After", "30"))
        elif self.error is None:
            self.reserved = length
            self.body_rcv.buf = UploadBuffer(self.adj.inbuf_overflow, self.gate.uploads)

    def close(self) -> None:
        self.disk.release(self.reserved)
        self.reserved = 0
        super().close()


class GatedChannel(HTTPChannel):
    """One connection."""

    parser_class = GatedParser
    error_task_class = JsonErrorTask
    begun = 0.0
    lingering = 0.0
    refused = False

    def received(self, data: bytes) -> bool:
        if self.request is None:
            self.begun = time.monotonic()
        result: bool = super().received(data)
        if self.requests and self.requests[-1].error is not None:
            self.refused = True
        return result

    def readable(self) -> bool:
        if self.lingering:
            if time.monotonic() > self.lingering:
                self._finish()
            return self.connected
        if self._dawdles():
            self.will_close = True
        result: bool = super().readable()
        return result

    def writable(self) -> Any:
        return False if self.lingering else super().writable()

    def handle_read(self) -> None:
        if not self.lingering:
            super().handle_read()
            return
        try:
            if not self.recv(1 << 16):
                self._finish()
        except OSError:
            self._finish()

    def handle_close(self: Any) -> None:
        if self.refused and self.connected and not self.lingering and not self.total_outbufs_len:
            # Closing while the client sends would make the system forget the answer it has not read yet.
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
                self.lingering = time.monotonic() + LINGER
                self.will_close = self.close_when_flushed = False
                return
        self._finish()

    def _finish(self) -> None:
        self.lingering = 0.0
        self.refused = False
        request, self.request = self.request, None
        if request is not None:
            request.close()
        super().handle_close()

    def _dawdles(self) -> bool:
        request = self.request
        if request is None or self.requests:
            return False
        seconds = time.monotonic() - self.begun
        if not request.headers_finished:
            return seconds > HEAD_SECONDS
        due = BODY_RATE * (seconds - BODY_GRACE)
        return bool(seconds > BODY_GRACE and request.body_bytes_received < due)


def channel_class(gate: Gate) -> type[HTTPChannel]:
    """The class of connections that `gate` watches."""
    parser = type("Parser", (GatedParser,), {"gate": gate, "disk": Disk(gate)})
    return type("Channel", (GatedChannel,), {"parser_class": parser})
