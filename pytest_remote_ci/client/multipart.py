"""A multipart/form-data body that is read from disk in pieces, so that a large project is never held in memory."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from typing import IO

#: Called with the bytes sent so far and in all.
Progress = Callable[[int, int], None]


#: Bytes per read.
_PIECE = 1 << 16


class MultipartUpload:
    """A readable of known length with the parts ``options`` and ``manifest`` (JSON) and ``file`` (a zip).

    Each part may be None. `archive` is read from its beginning and stays open; for a retry, make a new upload of the
    same archive.
    """

    def __init__(
        self,
        archive: IO[bytes] | None,
        options: str | None,
        progress: Progress | None = None,
        *,
        manifest: str | None = None,
    ) -> None:
        boundary = secrets.token_hex(16)
        #: The value of the request's Content-Type header.
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._archive = archive
        self._progress = progress
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n'
            f"Content-Type: application/json\r\n\r\n{content}\r\n"
            for name, content in (("options", options), ("manifest", manifest))
            if content is not None
        )
        if archive is not None:
            head += (
                f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="project.zip"\r\n'
                f"Content-Type: application/zip\r\n\r\n"
            )
        self._head = head.encode()
        end = "" if archive is None else "\r\n"
        self._tail = f"{end}--{boundary}--\r\n".encode()
        self._size = len(self._head) + len(self._tail)
        if archive is not None:
            self._size += archive.seek(0, os.SEEK_END)
            archive.seek(0)
        self._sent = 0
        self._pieces = self._read_pieces()
        self._left = b""

    def __len__(self) -> int:
        return self._size

    @property
    def handed_over(self) -> bool:
        """Whether the last byte has been read. From then on the runner may have created a job."""
        return self._sent >= self._size

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(_PIECE):
            yield piece

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes (all that is left if negative), or b"" at the end."""
        if size < 0:
            return b"".join(self)
        while len(self._left) < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._left += piece
        result, self._left = self._left[:size], self._left[size:]
        self._sent += len(result)
        if self._progress is not None and result:
            self._progress(self._sent, self._size)
        return result

    def _read_pieces(self) -> Iterator[bytes]:
        for start in range(0, len(self._head), _PIECE):
            yield self._head[start : start + _PIECE]
        while self._archive is not None and (piece := self._archive.read(_PIECE)):
            yield piece
        yield self._tail
