"""Checks before the application: strict heads, keys before bodies, limits per client, time limits.

Only the hook points of Waitress 3.0 are used (`parser_class`, `task_class`, `error_task_class`, `channel_class`). The
gate runs on the I/O thread, which serves every connection: it uses only headers and numbers in memory. A large body
is read only once its key is known: from a recent request, or from a lookup by a worker thread, during which nothing
more is read from that connection. Small bodies stay in memory and need not wait; the application checks their key as
usual.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeAlias, cast

from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer, TempfileBasedBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.receiver import ChunkedReceiver, FixedStreamReceiver
from waitress.server import BaseWSGIServer
from waitress.task import WSGITask
from waitress.utilities import Error

from ci_runner.errors import RunnerError
from ci_runner.server.http.addresses import TrustedProxies, network_of
from ci_runner.server.http.auth import NOT_AUTHENTICATED, Authenticator, bearer_token
from ci_runner.server.http.connections import Connections
from ci_runner.server.http.fair_threads import Work
from ci_runner.server.http.heads import ChunkedBody, MalformedHead, has_clean_line_ends, strict_head
from ci_runner.server.http.refusals import (
    JsonErrorTask,
    Refusal,
    busy,
    disk_full,
    of_key_check,
    unauthorized,
)
from ci_runner.server.http.uploads import UploadSpace

if TYPE_CHECKING:
    from waitress.wasyncore import _SocketMap

_log = logging.getLogger(__name__)

#: The environment of a request (PEP 3333).
WSGIEnvironment: TypeAlias = dict[str, object]

#: Seconds for the head of a request; seconds until a body must arrive steadily; its minimum bytes per second.
HEAD_SECONDS: Final = 15.0
BODY_GRACE: Final = 30.0
BODY_RATE: Final = 1000.0
#: Seconds to keep reading from a refused client, so that it receives the response before the close.
LINGER: Final = 2.0
#: Maximum bytes of a body that is read before its key is looked up.
SMALL_BODY: Final = 64 << 10
#: The first bytes of a TLS handshake.
_TLS: Final = b"\x16\x03"
#: Routes with large bodies; a request without credentials is refused before its body.
_WITH_KEY: Final = ("/submit", "/blobs/", "/runs")
#: Always answered, even if all other requests are turned away.
_ALWAYS: Final = frozenset({"/health"})


@dataclass
class Gate:
    """Shared state for the checks of connections and requests."""

    authenticator: Authenticator
    space: UploadSpace
    connections: Connections
    proxies: TrustedProxies
    #: Maximum bytes of a body.
    max_upload: int
    #: Queues work for a worker thread.
    add_task: Callable[[Work], None]
    #: Wakes the I/O thread.
    wake: Callable[[], None]
    #: Stops counting the calling thread's request for its owner (see `dispatch`).
    detach: Callable[[], None]
    #: Finished key checks, for the I/O thread.
    checked: deque[KeyCheck] = field(default_factory=deque)

    def finish_checks(self) -> None:
        """Resume requests after their key check, and close connections that were chosen to make room."""
        while self.checked:
            check = self.checked.popleft()
            check.channel.resume(check)
        self.connections.drop_chosen()


class KeyCheck:
    """The lookup of a key, by a worker thread, before the body of its request is read."""

    def __init__(self, channel: GatedChannel, request: GatedParser) -> None:
        self.channel = channel
        self.request = request
        #: The address, because the user is not known yet.
        self.owner = f"address {request.network}"
        self.user_id: str | None = None
        self.refusal: Refusal | None = None

    def service(self) -> None:
        """Look the key up."""
        gate = self.channel.gate
        try:
            header = self.request.headers.get("AUTHORIZATION")
            self.user_id = gate.authenticator.authenticate(header, self.request.network).user.id
        except RunnerError as error:
            self.refusal = of_key_check(error)
        except Exception:
            _log.exception("a key could not be checked")
            self.refusal = busy("The runner cannot check keys now; see the runner's log", 5)
        gate.checked.append(self)
        gate.wake()

    def cancel(self) -> None:
        """Close the connection; the server stops."""
        self.channel.cancel()


class _UploadFile(TempfileBasedBuffer):
    """Waitress' buffer in a temporary file, in a given folder."""

    def __init__(self, folder: Path, from_buffer: BytesIO | None = None) -> None:
        self._folder = folder
        super().__init__(from_buffer)

    def newfile(self) -> IO[bytes]:  # type: ignore[override]  # the stubs name a class of files
        return tempfile.TemporaryFile("w+b", dir=self._folder)  # closed with the request


class UploadBuffer(OverflowableBuffer):
    """A buffer that writes bodies too large for memory to an unnamed file in the data directory, not to /tmp."""

    def __init__(self, overflow: int, folder: Path) -> None:
        super().__init__(overflow)
        self._folder = folder

    def _set_large_buffer(self) -> None:
        buffer = _UploadFile(self._folder, cast("BytesIO | None", self.buf))
        self.buf = buffer  # type: ignore[assignment]  # the stubs name a class of files, not Waitress' buffers
        self.overflowed = True


class GatedParser(HTTPRequestParser):
    """One request; refused, if necessary, after its head and before any of its body is stored."""

    # Attributes that the response needs if the head is refused.
    command = b"GET"
    version = "1.1"
    path = "/"
    body_rcv: ChunkedReceiver | FixedStreamReceiver | None = None
    #: A response of the server itself.
    error: Error | None = None
    judged = False
    #: Whether the key is being looked up; body data received meanwhile; whether the client awaits 100 Continue.
    pending = False
    backlog = b""
    expects = False
    #: The user that sends the body, once known, and how many of its bytes were counted.
    user_id: str | None = None
    counted = 0

    def __init__(self, adj: Adjustments, channel: GatedChannel) -> None:
        super().__init__(adj)
        self.channel = channel
        self.gate = channel.gate
        #: When its first byte arrived, by the steady clock.
        self.began = time.monotonic()
        #: The client's address; behind a trusted proxy, the address that it forwards.
        self.client = str(channel.addr[0])
        self.network = network_of(self.client)
        #: The owner in the fair queue; None: a quick request, which does not wait.
        self.owner: str | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the server itself answers."""
        return self.error is not None

    def received(self, data: bytes) -> int:
        """Consume data; return how many bytes belong to this request."""
        if self.pending:
            self.backlog += data
            return len(data)
        consumed = 0
        if not self.is_refused:
            consumed = self._consume(data)
        if self.is_refused:
            self.completed = True
            self.expect_continue = False
            return len(data)  # ignore everything after a refused request
        return consumed

    def _consume(self, data: bytes) -> int:
        if not self.header_plus and data.startswith(_TLS):
            # The plain answer ends the client's handshake at once, with an error that says why.
            self.refuse(Refusal(400, "Bad Request", "Bad Request: this port speaks http, not https"))
            return len(data)
        try:
            consumed: int = super().received(data)
        except OSError as error:
            _log.error("a body could not be stored: %s", error)
            self.refuse(disk_full())
            return len(data)
        if not self.headers_finished and not self.is_refused and not has_clean_line_ends(self.header_plus):
            self.refuse(Refusal(400, "Bad Request", "Bad Request: a bare CR or LF in the head"))
        if self.headers_finished and not self.judged and not self.empty:
            self.judged = True
            self._judge()
        if self.body_bytes_received:
            self.expect_continue = False  # the client did not await it; Waitress would wait for more
        if self.user_id is not None and not self.is_refused and self.body_bytes_received > self.counted:
            size = self.body_bytes_received - self.counted
            self.counted += size
            refusal = self.gate.space.arrived(self.user_id, size)
            if refusal is not None:
                self.refuse(refusal)
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the head, unless it is ambiguous."""
        try:
            super().parse_header(strict_head(header_plus))
        except MalformedHead as malformed:
            self.error = malformed.error
        except ParsingError:
            raise
        except ValueError as error:
            raise ParsingError("Bad URI") from error
        if self.chunked and self.body_rcv is not None:
            # It has the interface of a receiver.
            self.body_rcv = cast(ChunkedReceiver, ChunkedBody(self.body_rcv.getbuf()))

    def refuse(self, refusal: Error) -> None:
        """Answer with `refusal`; nothing more is read of the request."""
        self.error = refusal
        self.completed = True
        self.expect_continue = False

    def accept_body(self, user_id: str) -> None:
        """Start receiving the user's body, if there is room for it."""
        refusal = self.gate.space.begin(user_id, self.content_length)
        if refusal is not None:
            self.refuse(refusal)
            return
        self.user_id = user_id
        assert self.body_rcv is not None, "only a request with a body has its key checked"
        self.body_rcv.buf = UploadBuffer(self.adj.inbuf_overflow, self.gate.space.folder)

    def _judge(self) -> None:
        self.client = self.gate.proxies.client(self.client, self.headers.get("X_FORWARDED_FOR"))
        self.network = network_of(self.client)
        always = self.path in _ALWAYS and self.body_rcv is None
        if self.error is None and self.channel.turned_away is not None and not always:
            self.refuse(self.channel.turned_away)
        if self.body_rcv is not None and (self.error is None or self.error.code == 413):
            self._judge_body()
        if self.error is None and not always:
            known = self.gate.authenticator.recent_user(self.headers.get("AUTHORIZATION"))
            self.owner = f"address {self.network}" if known is None else f"user {known}"

    def _judge_body(self) -> None:
        header = self.headers.get("AUTHORIZATION")
        length = self.content_length
        small = not self.chunked and length <= SMALL_BODY
        if not bearer_token(header) and (not small or self.path.startswith(_WITH_KEY)):
            self.refuse(unauthorized(NOT_AUTHENTICATED))
        elif length > self.gate.max_upload:
            text = f"The body has {length} bytes; this runner accepts at most {self.gate.max_upload}"
            self.refuse(Refusal(413, "Content Too Large", text))
        elif self.error is None and not small:
            known = self.gate.authenticator.recent_user(header)
            if known is not None:
                self.accept_body(known)
            else:
                self.pending = True
                self.expects, self.expect_continue = self.expect_continue, False
                self.gate.add_task(KeyCheck(self.channel, self))

    def close(self) -> None:
        """Free the request's resources; may be called twice, from any thread."""
        user_id, self.user_id = self.user_id, None
        if user_id is not None:
            self.gate.space.end(user_id, self.counted)
        super().close()


class GatedTask(WSGITask):
    """A request that is passed to the application."""

    def get_environment(self) -> WSGIEnvironment:
        """Return the WSGI environment, with the client's own address if it is behind a trusted proxy."""
        environ = super().get_environment()
        request, channel = cast(GatedParser, self.request), cast(GatedChannel, self.channel)
        environ["REMOTE_ADDR"] = environ["REMOTE_HOST"] = request.client
        environ["ci_runner.detach"] = channel.gate.detach
        environ["ci_runner.began"] = request.began
        return environ


class GatedChannel(HTTPChannel):
    """One connection."""

    #: Set by `channel_class`.
    gate: Gate
    request: GatedParser | None
    requests: Sequence[GatedParser]
    #: Missing in the stubs.
    requests_lock: AbstractContextManager[object]
    task_class = GatedTask
    error_task_class = JsonErrorTask
    begun = 0.0
    lingering = 0.0
    refused = False
    turned_away: Refusal | None = None

    def __init__(
        self,
        server: BaseWSGIServer,
        sock: socket.socket,
        addr: tuple[str, int],
        adj: Adjustments,
        map: _SocketMap | None = None,  # noqa: A002  # as in Waitress
    ) -> None:
        self.network = None if self.gate.proxies.trusts(addr[0]) else network_of(addr[0])
        self.useful_at = time.monotonic()
        super().__init__(server, sock, addr, adj, map)
        self.gate.connections.opened(self)

    def parser_class(self, adj: Adjustments) -> GatedParser:  # type: ignore[override]  # a class in Waitress
        """Return the parser for a request of this connection."""
        return GatedParser(adj, self)

    @property
    def owner(self) -> str | None:
        """The owner of the next request in the fair queue (see `dispatch`)."""
        request = self.requests[0]
        if self.total_outbufs_len > self.adj.outbuf_high_watermark // 2:
            return request.owner or f"address {request.network}"  # its thread may have to wait for the client
        return request.owner

    def is_idle(self) -> bool:
        """Return whether closing it interrupts no work: see `connections`."""
        request = self.request
        if self.lingering:
            return True
        return (
            not self.requests and not self.total_outbufs_len and (request is None or request.user_id is None)
        )

    def drop(self) -> None:
        """Close it at once."""
        self._finish()

    def received(self, data: bytes) -> bool:
        if self.refused:
            return False  # ignore further data of a refused client
        before = self.request
        result: bool = super().received(data)
        if self.request is not before:
            self.begun = time.monotonic()
        if self.requests and self.requests[-1].error is not None:
            self.refused = True
        return result

    def resume(self, check: KeyCheck) -> None:
        """Resume a request after its key check."""
        request = check.request
        if not self.connected or self.request is not request or not request.pending:
            return
        request.pending = False
        data, request.backlog = request.backlog, b""
        if check.user_id is None:
            assert check.refusal is not None, "a key check ends with one of them"
            request.refuse(check.refusal)
        else:
            request.accept_body(check.user_id)
            request.owner = f"user {check.user_id}"
        if request.error is None and not data:
            with self.requests_lock:
                request.expect_continue = request.expects
                if request.expects and not self.requests and not self.sent_continue:
                    self.send_continue()
        else:
            self.received(data or b"\r\n")  # also sends the response to a refused request

    def readable(self) -> bool:
        if self.lingering:
            if time.monotonic() > self.lingering:
                self._finish()
            return self.connected
        request = self.request
        if request is not None and request.pending:
            return False
        if self._dawdles():
            self._time_out()
        result: bool = super().readable()
        return result

    def writable(self) -> bool:
        return False if self.lingering else super().writable()

    def service(self) -> None:
        super().service()
        self.useful_at = time.monotonic()

    def handle_read(self) -> None:
        if not self.lingering:
            super().handle_read()
            return
        try:
            if not self.recv(1 << 16):
                self._finish()
        except OSError:
            self._finish()

    def handle_close(self) -> None:
        if self.refused and self.connected and not self.lingering and not self.total_outbufs_len:
            # Closing while the client sends would make the system discard the response before the client reads it.
            with contextlib.suppress(OSError):
                assert self.socket is not None, "it is connected"
                self.socket.shutdown(socket.SHUT_WR)
                self.lingering = time.monotonic() + LINGER
                self.will_close = self.close_when_flushed = False
                return
        self._finish()

    def del_channel(self, map: _SocketMap | None = None) -> None:  # noqa: A002  # as in Waitress
        self.gate.connections.closed(self)
        super().del_channel(map)

    def _finish(self) -> None:
        self.lingering = 0.0
        self.refused = False
        request, self.request = self.request, None
        if request is not None:
            request.close()
        super().handle_close()

    def _dawdles(self) -> bool:
        request = self.request
        if request is None or self.requests or self.refused:
            return False
        seconds = time.monotonic() - self.begun
        if not request.headers_finished:
            return seconds > HEAD_SECONDS
        due = BODY_RATE * (seconds - BODY_GRACE)
        return bool(seconds > BODY_GRACE and request.body_bytes_received < due)

    def _time_out(self) -> None:
        """Answer the unfinished request with 408."""
        text = "The request did not arrive in time; send it again"
        assert self.request is not None, "only an unfinished request times out"
        self.request.refuse(Refusal(408, "Request Timeout", text))
        self.received(b"\r\n")


def channel_class(gate: Gate) -> type[HTTPChannel]:
    """Return a class of connections that use `gate`."""
    return type("Channel", (GatedChannel,), {"gate": gate})
