"""The HTTP server around the application: one listening socket, and Waitress with settings for streams.

The constructor binds at once, so that a port in use is found before anything else begins. Stopping is orderly and
bounded: no new connections, streams end (their clients resume elsewhere or later), requests in progress are finished,
then everything is closed.
"""

from __future__ import annotations

import errno
import logging
import resource
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from ci_runner.errors import SettingsError
from ci_runner.server.app import RunnerApp
from ci_runner.server.http.addresses import TrustedProxies
from ci_runner.server.http.connections import Connections
from ci_runner.server.http.fair_threads import FairDispatcher
from ci_runner.server.http.upload_gate import Gate, GatedChannel, channel_class
from ci_runner.server.http.uploads import UploadSpace
from ci_runner.settings.groups import ServeSettings

if TYPE_CHECKING:
    from waitress.wasyncore import _SocketMap

_log = logging.getLogger(__name__)

#: Milliseconds after which a connection is closed if its client accepts no data.
_USER_TIMEOUT_MS: Final = 30_000
_SEND_BUFFER: Final = 128 << 10
#: Bytes buffered for a slow client before its thread waits.
_WATERMARK: Final = 256 << 10
_SILENT_CONNECTION: Final = 60
#: Maximum bytes of a request's head.
_LONGEST_HEAD: Final = 64 << 10
#: Connections accepted in one turn of the loop.
_BATCH: Final = 32
#: Seconds without new connections if no more files can be opened and no idle connection can be closed.
_OUT_OF_FILES_PAUSE: Final = 0.1
#: Files per streaming thread: its connection and its share of the database's.
_FILES_PER_THREAD: Final = 4
_LOOP_SECONDS: Final = 0.5


class HttpServer:
    """Serves one application in a separate thread."""

    #: Made by `start`.
    _server: _Server
    _dispatcher: FairDispatcher

    def __init__(self, app: RunnerApp, settings: ServeSettings, data_dir: Path) -> None:
        """Bind the address; raises `SettingsError` if that fails."""
        self._app = app
        self._stopping = threading.Event()
        self._ending = threading.Lock()
        self._stop_seconds = 10.0
        self._map: _SocketMap = {}
        self._socket = _listen(settings.host, settings.port)
        self._bound = self._socket.getsockname()
        self._settings = settings
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._uploads = data_dir / "uploads"
        self._gate: Gate | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The listening port, also if 0 was requested."""
        return int(self._bound[1])

    @property
    def url(self) -> str:
        """The server's URL for clients on this machine."""
        host = self._settings.host
        if host in ("", "0.0.0.0", "::"):  # noqa: S104  # compared, not bound
            host = "127.0.0.1" if host != "::" else "::1"
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def start(self) -> None:
        """Start serving."""
        settings = self._settings
        threads = settings.threads + settings.max_streams
        files = _allow_files(settings.max_connections + _FILES_PER_THREAD * threads)
        self._dispatcher = FairDispatcher(
            threads, min(settings.max_requests_per_user, max(1, settings.threads - 1))
        )
        adjustments = Adjustments(
            sockets=[self._socket],
            threads=threads,
            ident=None,
            asyncore_use_poll=True,
            # Lets a stream notice within milliseconds that its client disconnected.
            channel_request_lookahead=1,
            connection_limit=1 << 30,  # `Connections` keeps count
            outbuf_high_watermark=_WATERMARK,
            max_request_header_size=_LONGEST_HEAD,
            max_request_body_size=settings.max_upload + 1,
            channel_timeout=_SILENT_CONNECTION,
            cleanup_interval=10,
            log_socket_errors=False,
            expose_tracebacks=False,
            clear_untrusted_proxy_headers=True,
        )
        self._server = _Server(
            self._app,  # type: ignore[arg-type]  # Falcon and Waitress have different types for `start_response`
            self._map,
            True,
            self._socket,
            dispatcher=self._dispatcher,
            adj=adjustments,
            sockinfo=(self._socket.family, self._socket.type, self._socket.proto, self._bound),
            bind_socket=False,
        )
        self._gate = Gate(
            self._app.authenticator,
            UploadSpace(
                self._uploads, self._app.services.storage.disk_reserve, settings.max_uploads_per_user
            ),
            Connections(_connections(settings.max_connections, files), settings.max_connections_per_address),
            self._proxies,
            settings.max_upload,
            self._dispatcher.add_task,
            self._server.pull_trigger,
            self._dispatcher.detach,
        )
        self._server.connections = self._gate.connections
        self._server.channel_class = channel_class(self._gate)
        self._app.start()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()
        _log.info("listening on %s", self.url)

    def stop(self, seconds: float = 10.0) -> None:
        """Stop within about `seconds`, finishing requests in progress; may be called twice."""
        self._stop_seconds = seconds
        if self._thread is None:
            self._stopping.set()
            self._socket.close()
            return
        with self._ending:  # do not close the trigger before it is pulled
            if not self._stopping.is_set():
                self._stopping.set()
                self._server.pull_trigger()
        self._thread.join()

    # -- the server's thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._turn(_LOOP_SECONDS)
        deadline = time.monotonic() + self._stop_seconds
        wasyncore.dispatcher.close(self._server)  # the listening socket only
        self._app.stop()
        while self._finishing() and time.monotonic() < deadline:
            self._turn(0.05)
        for channel in list(self._server.active_channels.values()):
            channel.handle_close()
            channel.handle_close()  # stop waiting for refused clients
        self._dispatcher.shutdown(timeout=max(0.5, deadline - time.monotonic()))
        with self._ending:
            self._server.trigger.close()
        wasyncore.close_all(self._map, ignore_all=True)
        _log.info("stopped listening")

    def _turn(self, seconds: float) -> None:
        """Poll all sockets once; an error on one of them must not end the server."""
        try:
            wasyncore.loop(seconds, use_poll=True, map=self._map, count=1)
            assert self._gate is not None
            self._gate.finish_checks()
        except Exception:
            _log.exception("the HTTP server stumbled")
            time.sleep(0.05)

    def _finishing(self) -> bool:
        """Return whether a request is being received, answered or sent; close idle connections."""
        busy = False
        for channel in list(self._server.active_channels.values()):
            if channel.requests or channel.request is not None or channel.total_outbufs_len:
                busy = True
            else:
                channel.will_close = True
        return busy


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket with connections that time out if the client accepts no data."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError(f"serve.host: cannot listen on {host}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        listener.bind(address)
    except OSError as error:
        listener.close()
        problem = f"cannot listen on {host}:{port}: {error.strerror or error}"
        raise SettingsError(f"serve.port: {problem}; choose another with --port") from error
    return listener


class _Server(TcpWSGIServer):
    """Waitress' server; accepts several connections per turn, and survives a lack of file descriptors."""

    connections: Connections
    active_channels: dict[int, GatedChannel]  # type: ignore[assignment]  # the stubs name a channel
    trigger: wasyncore.dispatcher  # type: ignore[assignment]  # the stubs name a number
    _map: _SocketMap
    _closed_until = 0.0

    def readable(self) -> bool:
        return bool(super().readable()) and time.monotonic() >= self._closed_until

    def handle_accept(self) -> None:
        assert self.socket is not None
        for _ in range(_BATCH):
            try:
                connection, address = self.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._run_out()
                return
            try:
                self.set_socket_options(connection)
                self.channel_class(self, connection, address, self.adj, map=self._map)
            except OSError:  # already disconnected
                connection.close()

    def _run_out(self) -> None:
        """Close an idle connection, or pause: no file descriptor is left for a new connection."""
        if not self.connections.make_room():
            self._closed_until = time.monotonic() + _OUT_OF_FILES_PAUSE
        _log.warning("no more files can be opened; %d connections are open", len(self.connections))


def _connections(wanted: int, files: int) -> int:
    """Return how many connections may be open with `files` descriptors, leaving some for other uses."""
    return min(wanted, max(8, files // 2))


def _allow_files(wanted: int) -> int:
    """Raise this process's limit of open files as far as possible; return how many of `wanted` are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    if target < wanted:
        _log.warning("only %d files may be open; %d are needed for all streams", target, wanted)
    return target
