"""Deterministic zips: the same bytes for the same tree, on any machine and at any time.

Members are sorted, dated 1980-01-01, and have no mode bits beyond the executable bit. The caller,
`pytest_remote_ci.workspace.collect`, chooses the files and their names.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final

from pytest_remote_ci.errors import WorkspaceChanged

#: Called with the bytes read so far and the bytes to read in all.
Progress = Callable[[int, int], None]

_DATE: Final = (1980, 1, 1, 0, 0, 0)
#: Source code shrinks to a quarter at the fastest level. Higher levels take longer than they save on a usual line.
_LEVEL: Final = 1
_CHUNK: Final = 1 << 20
#: Most and least bytes at the beginning of a content that are compressed to see whether that is worth the time. A trial
#: takes a quarter of it; a smaller content is not worth one.
_MOST_TRIED: Final = 64 << 10
_LEAST_TRIED: Final = 4 << 10
#: The share of these bytes that must be left for compression not to be worth it.
_TOO_MUCH: Final = 0.9


@dataclass(frozen=True)
class Member:
    """A file to pack."""

    #: Its name in the zip.
    name: str
    #: Path of the file on disk.
    source: str
    #: 0o644 or 0o755 (with other bits, runners only read the executable one).
    mode: int
    #: Bytes, at the time the file was inspected.
    size: int
    #: Digest that the content must have. None accepts any content, and skips a missing file.
    sha256: str | None = None


def pack(members: Iterable[Member], target: IO[bytes], progress: Progress | None = None) -> None:
    """Write the zip of `members` to `target`, which must be seekable.

    Raises `WorkspaceChanged` for a member with a digest if its content has changed or is gone.
    """
    ordered = sorted(members, key=lambda member: member.name)
    total = sum(member.size for member in ordered)
    done = 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in ordered:
            _add(archive, member, partial(_report, progress, done, total))
            done += member.size
    if progress:
        progress(total, total)


def _report(progress: Progress | None, before: int, total: int, read: int) -> None:
    """Report progress after `read` bytes of a member and `before` bytes of earlier members."""
    if progress:
        progress(min(before + read, total), total)


def _add(archive: zipfile.ZipFile, member: Member, advance: Callable[[int], None]) -> None:
    """Add one member. `advance` is called with the number of its bytes read so far."""
    try:
        source = Path(member.source).open("rb")  # noqa: SIM115 - an error here means something else than one below
    except OSError as error:
        if member.sha256 is None:
            return
        raise WorkspaceChanged(f"{member.source}: was deleted while it was packed; run again") from error
    info = zipfile.ZipInfo(member.name, _DATE)
    info.create_system = 3  # Unix, even on Windows, so that the mode below applies
    info.external_attr = (0o100000 | member.mode) << 16
    info.file_size = member.size  # decides whether ZIP64 is needed
    setattr(info, "_compresslevel", _LEVEL)  # noqa: B010 - no public name for it before Python 3.13
    digest = hashlib.sha256()
    read = 0
    with source:
        chunk = source.read(_CHUNK)
        info.compress_type = zipfile.ZIP_DEFLATED if _shrinks(chunk) else zipfile.ZIP_STORED
        with archive.open(info, "w") as packed:
            while chunk:
                packed.write(chunk)
                digest.update(chunk)
                read += len(chunk)
                advance(read)
                chunk = source.read(_CHUNK)
    if member.sha256 is not None and digest.hexdigest() != member.sha256:
        raise WorkspaceChanged(f"{member.source}: changed while it was packed; run again")


def _shrinks(beginning: bytes) -> bool:
    """Return whether a content that begins like this is worth compressing."""
    tried = beginning[: min(_MOST_TRIED, len(beginning) // 4)]
    return len(tried) < _LEAST_TRIED or len(zlib.compress(tried, _LEVEL)) < len(tried) * _TOO_MUCH
