"""A package index (PEP 503) of the tests' own over TLS, with a certificate authority that nobody else trusts."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import ssl
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


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
    commands = [
        ["req", "-x509", *new_key, "-keyout", authority_key, "-out", authority, "-days", "2", "-subj", "/CN=test CA",
         "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"],
        ["req", *new_key, "-keyout", key, "-out", request, "-subj", f"/CN={address}"],
        ["x509", "-req", "-in", request, "-CA", authority, "-CAkey", authority_key, "-CAcreateserial", "-days", "2",
         "-extfile", extensions, "-out", leaf],
    ]  # fmt: skip
    for command in commands:
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return authority, leaf, key


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:  # type: ignore[override]
        """Quiet."""


@contextmanager
def serve(folder: Path, address: str) -> Iterator[tuple[str, Path]]:
    """Serve a folder; gives (URL of the index, file of the authority)."""
    authority, leaf, key = certificate(folder.parent / "tls", address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf, key)
    server = http.server.ThreadingHTTPServer((address, 0), functools.partial(_Handler, directory=str(folder)))
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
