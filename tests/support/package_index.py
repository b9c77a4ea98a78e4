"""A package index (PEP 503) of the tests' own over TLS, with a certificate authority that nobody else trusts.

And a proxy by which it can be reached from where it cannot be reached directly.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import select
import socket
import ssl
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import BinaryIO


def wheel(
    folder: Path, name: str, version: str, files: Mapping[str, str], requires: tuple[str, ...] = ()
) -> None:
    """Put a pure wheel where the index serves it."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {item}\n" for item in requires)
    contents = {
        **files,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text.encode())}")
    contents[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    place = folder / "simple" / name
    place.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(place / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in contents.items():
            archive.writestr(path, text)
    _list(place)


def rewheel(folder: Path, name: str) -> None:
    """Put a pure distribution of this interpreter's where the index serves it, with what it needs on Linux."""
    found = distribution(name)
    files = {
        str(file): Path(str(file.locate())).read_text("utf-8")
        for file in found.files or ()
        if file.suffix == ".py" or file.name in ("py.typed", "entry_points.txt")
    }
    requires = [line for line in found.requires or () if "extra ==" not in line and "win32" not in line]
    wheel(folder, name, found.version, files, tuple(requires))


def sdist(folder: Path, name: str, version: str, files: Mapping[str, str]) -> None:
    """Put a source distribution where the index serves it."""
    place = folder / "simple" / name
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place / f"{name}-{version}.tar.gz", "w:gz") as archive:
        for path, text in {
            "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            **files,
        }.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{path}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    _list(place)


def _list(place: Path) -> None:
    links = []
    for path in sorted(place.iterdir()):
        if path.name != "index.html":
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            links.append(f'<a href="{path.name}#sha256={digest}">{path.name}</a>')
    (place / "index.html").write_text("<!DOCTYPE html><html><body>" + "<br>".join(links) + "</body></html>")


def certificate(folder: Path, address: str) -> tuple[Path, Path, Path]:
    """(authority, certificate, key) for an IP address, made with openssl."""
    folder.mkdir(parents=True, exist_ok=True)
    authority, authority_key = folder / "ca.pem", folder / "ca.key"
    key, request, leaf = folder / "leaf.key", folder / "leaf.csr", folder / "leaf.pem"
    extensions = folder / "extensions"
    extensions.write_text(f"subjectAltName=IP:{address}\nbasicConstraints=CA:FALSE\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    commands: list[list[str | Path]] = [
        [
            "req",
            "-x509",
            *new_key,
            "-keyout",
            authority_key,
            "-out",
            authority,
            "-days",
            "2",
            "-subj",
            "/CN=test CA",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ],
        ["req", *new_key, "-keyout", key, "-out", request, "-subj", f"/CN={address}"],
        [
            "x509",
            "-req",
            "-in",
            request,
            "-CA",
            authority,
            "-CAkey",
            authority_key,
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            extensions,
            "-out",
            leaf,
        ],
    ]
    for command in commands:
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return authority, leaf, key


#: User and password for what is below the folder `private`.
USER, PASSWORD = "ann", "s3cret+word"


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.path.startswith("/private/") and self.headers.get("Authorization") != expected:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="private"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        return super().send_head()

    def log_message(self, *args: object) -> None:
        """Quiet."""


@contextmanager
def serve(folder: Path, address: str, port: int = 0) -> Iterator[tuple[str, Path]]:
    """Serve a folder; gives (URL of the index, file of the authority). Port 0: a free one."""
    authority, leaf, key = certificate(folder.parent / "tls", address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf, key)
    server = http.server.ThreadingHTTPServer(
        (address, port), functools.partial(_Handler, directory=str(folder))
    )
    server.daemon_threads = True
    # The handshake happens in the request's own thread: a client that refuses the certificate blocks nobody.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(
        target=server.serve_forever, name="private-index", kwargs={"poll_interval": 0.05}
    )
    thread.start()
    try:
        yield f"https://{address}:{server.server_address[1]}/simple", authority
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def host_address() -> str:
    """An address of this machine that is not loopback: containers find a way to it. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


class _ProxyServer(http.server.ThreadingHTTPServer):
    """Knows what it was asked for."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.asked: list[str] = []


class _Tunnel(http.server.BaseHTTPRequestHandler):
    """CONNECT, and nothing else."""

    timeout = 30
    server: _ProxyServer

    def do_CONNECT(self) -> None:
        self.server.asked.append(self.path)
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as there:
            self.send_response(200)
            self.end_headers()
            other = {self.connection: there, there: self.connection}
            while ready := select.select([*other], [], [], 30)[0]:
                for side in ready:
                    data = side.recv(65536)
                    if not data:
                        self.close_connection = True
                        return
                    other[side].sendall(data)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@contextmanager
def proxy(address: str) -> Iterator[tuple[str, list[str]]]:
    """A proxy for https at an address; gives its URL and the targets that it was asked for, as host:port."""
    server = _ProxyServer((address, 0), _Tunnel)
    thread = threading.Thread(target=server.serve_forever, name="proxy", kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://{address}:{server.server_address[1]}", server.asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
