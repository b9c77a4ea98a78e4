"""A proxy between a program and a unix socket, such as Docker's, that can be made to hang or to refuse."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from types import TracebackType


class SocketProxy:
    """Forwards connections to `target` until it is told otherwise."""

    def __init__(self, path: Path, target: Path) -> None:
        self.path = path
        self._target = target
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        #: Cleared while nothing is forwarded.
        self._flowing = threading.Event()
        self._closing = False
        self.resume()

    def hang(self) -> None:
        """Accept connections and requests, but forward nothing, in no direction."""
        self._flowing.clear()

    def refuse(self) -> None:
        """Break all connections and accept no other one."""
        with self._lock:
            listener, self._listener = self._listener, None
            connections, self._connections = self._connections, set()
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()
        self.path.unlink(missing_ok=True)
        for connection in connections:
            _close(connection)

    def resume(self) -> None:
        """Forward everything again, also what came meanwhile."""
        self._flowing.set()
        if self._listener is None:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(str(self.path))
            listener.listen(64)
            self._listener = listener
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def __enter__(self) -> SocketProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._flowing.set()
        self.refuse()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                server.connect(str(self._target))
            except OSError:
                _close(client)
                _close(server)
                continue
            with self._lock:
                self._connections |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                if self._closing:
                    break
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
            return
        for connection in (source, sink):
            _close(connection)
            with self._lock:
                self._connections.discard(connection)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
