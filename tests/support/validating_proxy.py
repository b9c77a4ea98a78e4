"""A proxy between clients and a runner that changes nothing and holds every answer against the OpenAPI document.

Bytes pass as they come; what passed is taken apart once its connection is closed. Whatever is wrong is remembered
and fails the test that asks for it (`ValidatingProxy.check`).
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from support.openapi import validate_answer, validate_stream
from support.runner import Runner

_PIECE = 1 << 16


@dataclass
class _Talk:
    """Everything that was said on one connection."""

    asked: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)


class ValidatingProxy:
    """Listens on loopback; `target` says, for each connection, where the runner is now."""

    def __init__(self, target: Callable[[], str]) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._violations: list[str] = []
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        #: How many answers of which kind were checked: ``"GET /jobs 200"`` → number.
        self.checked: Counter[str] = Counter()
        self._acceptor = threading.Thread(target=self._accept, name="proxy")
        self._acceptor.start()

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def check(self) -> None:
        """Fail with everything that was wrong since the last time."""
        with self._lock:
            violations, self._violations = self._violations, []
        assert not violations, "answers that are not as the API describes them:\n" + "\n".join(violations)

    def close(self) -> None:
        """End all connections and check what passed on them."""
        if self in open_proxies:
            open_proxies.remove(self)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(10)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self.check()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._carry, args=(client,), name="proxy connection")
            self._threads.append(thread)
            thread.start()

    def _carry(self, client: socket.socket) -> None:
        talk = _Talk()
        with client:
            place = urlsplit(self._target())
            try:
                runner = socket.create_connection((str(place.hostname), place.port or 80), timeout=10)
            except OSError:
                return  # nobody there: the client sees its connection end
            with runner:
                runner.settimeout(None)
                with self._lock:
                    self._open |= {client, runner}
                back = threading.Thread(target=_pass, args=(runner, client, talk.answered))
                back.start()
                _pass(client, runner, talk.asked)
                back.join()
                with self._lock:
                    self._open -= {client, runner}
        self._judge(talk)

    def _judge(self, talk: _Talk) -> None:
        try:
            for method, path, answer, body, whole in _exchanges(bytes(talk.asked), bytes(talk.answered)):
                name = f"{method} {path} {answer.status}"
                try:
                    self._judge_answer(method, path, answer, body, whole)
                except Exception as error:
                    with self._lock:
                        self._violations.append(f"{name}: {type(error).__name__}: {str(error)[:2000]}")
                with self._lock:
                    self.checked[name] += 1
        except Exception as error:
            with self._lock:
                self._violations.append(f"not understood: {error!r}: {bytes(talk.answered[:300])!r}")

    @staticmethod
    def _judge_answer(method: str, path: str, answer: Any, body: bytes, whole: bool) -> None:
        streamed = str(answer.headers.get("Content-Type", "")).startswith("text/event-stream")
        if whole or streamed:
            validate_answer(method, path, answer.status, answer.headers, body)
        if streamed:
            blocks = body.decode("ascii").split("\n\n")
            assert blocks[-1] == "" or not whole, f"the stream ended inside a frame: {blocks[-1]!r}"
            validate_stream(blocks[:-1])


#: Those that `start_proxy` made and nobody closed yet.
open_proxies: list[ValidatingProxy] = []


def start_proxy(runner: Runner) -> ValidatingProxy:
    """Send the runner's clients through a proxy of its own, to be closed after they are gone."""
    proxy = ValidatingProxy(lambda: runner.url)
    open_proxies.append(proxy)
    runner.front = proxy.url
    return proxy


def _pass(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
    """Until one side ends; the other is told."""
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            kept += piece
            target.sendall(piece)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class _Kept(io.BytesIO):
    """Recorded bytes that look like a socket; several answers are read one after the other."""

    def makefile(self, *_: object) -> _Kept:
        return self

    def close(self) -> None:
        """An answer that was read must not close the rest."""


def _exchanges(
    asked: bytes, answered: bytes
) -> Iterator[tuple[str, str, http.client.HTTPResponse, bytes, bool]]:
    """Method, path, answer, its body, and whether the body came to its end."""
    requests, answers = io.BytesIO(asked), _Kept(answered)
    while answers.tell() < len(answered):
        method, path = _request(requests)
        answer = http.client.HTTPResponse(answers, method=method)  # type: ignore[arg-type]
        try:
            answer.begin()  # passes over "100 Continue"
        except (http.client.HTTPException, ValueError):
            if b"\r\n\r\n" in answered[answers.tell() :]:
                raise
            return  # cut off inside a head
        try:
            body, whole = answer.read(), True
        except http.client.IncompleteRead as error:
            body, whole = error.partial, False
        yield method, path, answer, body, whole
        if not whole or answer.will_close:
            return


def _request(requests: io.BytesIO) -> tuple[str, str]:
    """Method and path of the next request; its body is passed over."""
    words = requests.readline().decode("latin-1").split(" ")
    headers = http.client.parse_headers(requests)
    if headers.get("Transfer-Encoding", "").lower() == "chunked":
        while size := int(requests.readline().partition(b";")[0] or b"0", 16):
            requests.read(size + 2)
        requests.readline()
    else:
        requests.read(int(headers.get("Content-Length", "0")))
    return words[0], urlsplit(words[1]).path if len(words) > 1 else ""
