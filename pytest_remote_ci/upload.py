"""One multipart/form-data body, read from disk piece by piece, so that a large project never sits in memory."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from typing import IO

#: Called with bytes sent so far and in all.
Progress = Callable[[int, int], None]


class MultipartUpload:
    """The parts ``options`` (JSON, optional) and ``file`` (the zip), as a readable of known length.

    `archive` is read from its beginning and stays open; a retry makes a new upload of the same archive.
    """

    def __init__(self, archive: IO[bytes], options: str | None, progress: Progress | None = None) -> None:
        boundary = secrets.token_hex(16)
        #: Value of the request's Content-Type.
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._archive = archive
        self._progress = progress
        head = ""
        if options is not None:
            head = (
                f'--{boundary}\r\nContent-Disposition: form-data; name="options"\r\n'
                f"Content-Type: application/json\r\n\r\n{options}\r\n"
            )
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="project.zip"\r\n'
            f"Content-Type: application/zip\r\n\r\n"
        )
        self._head = head.encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._size = len(self._head) + archive.seek(0, os.SEEK_END) + len(self._tail)
        archive.seek(0)
        self._sent = 0
        self._pieces = self._read_pieces()
        self._left = b""

    def __len__(self) -> int:
        return self._size

    @property
    def handed_over(self) -> bool:
        """Whether the last byte was read: from then on the runner may have made a job."""
        return self._sent >= self._size

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(1 << 16):
            yield piece

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes (all that is left when negative); empty at the end."""
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
        yield self._head
        while piece := self._archive.read(1 << 16):
            yield piece
        yield self._tail
