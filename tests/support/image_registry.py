"""An image registry (Docker Registry HTTP API V2) with one small image, on loopback: engines accept HTTP there."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import tarfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass
class Registry:
    """What it serves, and what it was asked for."""

    port: int
    labels: dict[str, str]
    #: Path → (content type, content).
    content: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    #: Answered instead, when set: status and error code of the API.
    refusal: tuple[int, str] | None = None

    def __post_init__(self) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            data = uuid.uuid4().hex.encode()  # an image that no engine has seen before
            entry = tarfile.TarInfo("mark")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        layer = gzip.compress(buffer.getvalue())
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Labels": self.labels, "Cmd": ["/none"]},
                "rootfs": {"type": "layers", "diff_ids": [_digest(buffer.getvalue())]},
            }
        ).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._blob(config, "application/vnd.docker.container.image.v1+json"),
            "layers": [self._blob(layer, "application/vnd.docker.image.rootfs.diff.tar.gzip")],
        }
        raw = json.dumps(manifest).encode()
        for name in ("1", _digest(raw)):
            self.content[f"/v2/mark/manifests/{name}"] = (_MANIFEST, raw)

    @property
    def reference(self) -> str:
        """The image's name."""
        return f"127.0.0.1:{self.port}/mark:1"

    def _blob(self, data: bytes, kind: str) -> dict[str, Any]:
        self.content[f"/v2/mark/blobs/{_digest(data)}"] = ("application/octet-stream", data)
        return {"mediaType": kind, "size": len(data), "digest": _digest(data)}


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    registry: Registry


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        registry = self.server.registry
        registry.asked.append(self.path)
        if self.path == "/v2/":
            self._answer(200, "application/json", b"{}")
        elif registry.refusal is not None:
            status, code = registry.refusal
            body = {"errors": [{"code": code, "message": "refused on purpose"}]}
            self._answer(status, "application/json", json.dumps(body).encode())
        elif self.path in registry.content:
            self._answer(200, *registry.content[self.path])
        else:
            self._answer(404, "application/json", b'{"errors": []}')

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if kind == _MANIFEST:
            self.send_header("Docker-Content-Digest", _digest(body))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@contextmanager
def registry(**labels: str) -> Iterator[Registry]:
    """A registry whose image has these labels (``_`` stands for ``-`` and ``__`` for ``.``)."""
    server = _Server(("127.0.0.1", 0), _Handler)
    named = {name.replace("__", ".").replace("_", "-"): value for name, value in labels.items()}
    server.registry = made = Registry(server.server_address[1], named)
    thread = threading.Thread(target=server.serve_forever, name="registry", kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
