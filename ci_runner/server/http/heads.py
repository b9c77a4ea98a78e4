"""Parse heads and chunks of requests more strictly than Waitress: ambiguous input is answered with 400.

Waitress' own regular expressions run only on heads that were accepted here: for others, some need quadratic time.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Final

from waitress.buffers import OverflowableBuffer
from waitress.utilities import BadRequest, Error

#: Maximum number of header lines in one request.
MOST_HEADERS: Final = 128
#: Maximum bytes of the line before a chunk, extensions included, and of all trailer lines.
LONGEST_CHUNK_LINE: Final = 256
_TRAILER: Final = 8192
#: Bytes of chunk framing allowed in addition to the size of the content.
_FRAMING: Final = 64 << 10
#: A length with more digits is invalid.
_LENGTH = re.compile(rb"[0-9]{1,20}\Z")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\Z")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_HOST = re.compile(rb"[^\s,/?#@\\]*\Z")
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]\Z")
_ABSOLUTE = re.compile(rb"https?://[^/?#\[\]]+|https?://\[[0-9A-Fa-f:.]+\](?::[0-9]*)?", re.IGNORECASE)


class UnsupportedVersion(Error):
    """A request with another major version of HTTP."""

    code = 505
    reason = "HTTP Version Not Supported"


class TooManyHeaders(Error):
    """A request with too many header lines."""

    code = 431
    reason = "Request Header Fields Too Large"


class MalformedHead(Exception):
    """The head is refused; `error` is the response."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.body)
        self.error = error


def _bad(text: str) -> MalformedHead:
    return MalformedHead(BadRequest(text))


def strict_head(head: bytes) -> bytes:
    """Return the head with one blank after each colon, for Waitress to parse; raises `MalformedHead`."""
    if _CONTROL.search(head):
        raise _bad("a control character in the head")
    if not has_clean_line_ends(head):
        raise _bad("a bare CR or LF in the head")
    first, *lines = head.split(b"\r\n")
    first = first.rstrip(b" ")
    version = _check_first_line(first)
    headers: dict[bytes, list[bytes]] = {}
    lines = [line for line in lines if line]
    if len(lines) > MOST_HEADERS:
        raise MalformedHead(TooManyHeaders(f"more than {MOST_HEADERS} header lines"))
    clean = [first]
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            raise _bad("a folded header line")
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.match(name):
            raise _bad("a header line without a proper name")
        value = value.strip(b" \t")
        headers.setdefault(name.lower(), []).append(value)
        clean.append(name + b": " + value)
    _check_host(headers.get(b"host", []), version)
    _check_length(headers.get(b"content-length", []), headers.get(b"transfer-encoding"), version)
    return b"\r\n".join([*clean, b"", b""])


def has_clean_line_ends(head: bytes) -> bool:
    """Return whether CR and LF occur only as CR LF; a CR at the very end may precede an LF yet to come."""
    pairs = head.count(b"\r\n")
    return head.count(b"\n") == pairs and head.count(b"\r") - head.endswith(b"\r") == pairs


def _check_first_line(line: bytes) -> bytes:
    """Check the first line and return the version."""
    parts = line.split(b" ")
    if len(parts) != 3:
        raise _bad("the first line is not 'METHOD target HTTP/1.1'")
    method, target, version = parts
    if not _NAME.match(method) or method != method.upper() or not _VERSION.match(version):
        raise _bad("the first line is not 'METHOD target HTTP/1.1'")
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise MalformedHead(UnsupportedVersion("only HTTP/1.0 and HTTP/1.1 are supported"))
    origin = target.startswith(b"/") or (target == b"*" and method == b"OPTIONS")
    if not target.isascii() or not (origin or _ABSOLUTE.match(target)):
        raise _bad("the target is neither a path nor an http address")
    return version


def _check_host(hosts: list[bytes], version: bytes) -> None:
    if len(hosts) > 1 or (not hosts and version == b"HTTP/1.1"):
        raise _bad("a request needs exactly one Host")
    if hosts and not _HOST.match(hosts[0]):
        raise _bad("the Host header is not a host")


def _check_length(lengths: list[bytes], codings: list[bytes] | None, version: bytes) -> None:
    if codings is not None:
        if lengths:
            raise _bad("both Content-Length and Transfer-Encoding")
        if version == b"HTTP/1.0":
            raise _bad("Transfer-Encoding in HTTP/1.0")
        names = [name.strip(b" \t").lower() for name in b",".join(codings).split(b",")]
        if set(names) <= {b"chunked", b""} and names != [b"chunked"]:
            raise _bad("Transfer-Encoding is not exactly 'chunked'")
    if len(lengths) > 1 or (lengths and not _LENGTH.match(lengths[0])):
        raise _bad("Content-Length is not one whole number")


class ChunkedBody:
    """Decodes a chunked body; replaces Waitress' receiver, which does not limit the length of lines."""

    def __init__(self, buf: OverflowableBuffer) -> None:
        self.buf = buf
        self.completed = False
        self.error: Error | None = None
        self._line = b""
        #: The next part: a chunk's size, its data (`_left` bytes), its end, or the trailer.
        self._expects = "size"
        self._left = 0
        self._content = 0
        self._framing = 0
        self._trailer = 0

    def received(self, data: bytes) -> int:
        """Consume data of the body; return the number of bytes used."""
        taken = 0
        while taken < len(data) and not self.completed and self.error is None:
            if self._expects == "data":
                piece = data[taken : taken + self._left]
                self.buf.append(piece)
                taken += len(piece)
                self._content += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._expects = "end"
            else:
                taken += self._consume_line(data, taken)
        return taken

    def _consume_line(self, data: bytes, start: int) -> int:
        """Consume data up to the next line's end; return the number of bytes used."""
        end = data.find(b"\n", start, start + LONGEST_CHUNK_LINE + 2) + 1
        piece = data[start : end or start + LONGEST_CHUNK_LINE + 2]
        self._line += piece
        self._framing += len(piece)
        if len(self._line) > LONGEST_CHUNK_LINE + 2 or self._framing > self._content + _FRAMING:
            self.error = BadRequest("a chunk's line is too long, or chunks are too small")
        elif end:
            line, self._line = self._line, b""
            if line.endswith(b"\r\n") and b"\r" not in line[:-2]:
                self._handle_line(line[:-2])
            else:
                self.error = BadRequest("a chunk's line does not end with CR LF")
        return len(piece)

    def _handle_line(self, line: bytes) -> None:
        if self._expects == "end":
            if line:
                self.error = BadRequest("a chunk is longer than declared")
            self._expects = "size"
        elif self._expects == "trailer":
            self._trailer += len(line)
            self.completed = not line
            if self._trailer > _TRAILER:
                self.error = BadRequest("the trailer is too long")
        else:
            match = _CHUNK.match(line)
            if match is None:
                self.error = BadRequest("a chunk without a proper size")
                return
            self._left = int(match[1], 16)
            self._expects = "data" if self._left else "trailer"

    def __len__(self) -> int:
        return len(self.buf)

    def getfile(self) -> BytesIO:
        """Return the buffer as a file."""
        return self.buf.getfile()

    def getbuf(self) -> OverflowableBuffer:
        """Return the buffer."""
        return self.buf
