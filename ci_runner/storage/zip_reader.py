"""Strict reader of uploaded zip archives: reject, never sanitise.

The archive may be hostile, and `zipfile` repairs, renames and accepts too much. So the few structures that a project
archive needs are read strictly: one central directory at the end, members that neither overlap nor have false sizes,
regular files under plain relative names, stored or deflated. Every refusal is an `InvalidSubmission` that names the
entry and the reason. Memory is bounded by the number of entries, and contents are only ever streamed. This module
writes nothing; `ci_runner.storage.blobs` stores the contents.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

from ci_runner.errors import InvalidSubmission
from ci_runner.model.path_checks import MAX_PATH_BYTES, check_paths, path_problem, shown

#: Bytes of a piece in which contents are read and passed on.
_PIECE: Final = 1 << 16
_EOCD = struct.Struct("<4s4H2LH")
_EOCD64_LOCATOR = struct.Struct("<4sLQL")
_EOCD64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
#: A member's flags for encryption, strong encryption, masked headers and patched data.
_FORBIDDEN_FLAGS: Final = 0x0001 | 0x0040 | 0x2000 | 0x0020
_DATA_DESCRIPTOR: Final = 0x0008
_UTF8: Final = 0x0800
#: The newest version of the format that stored and deflated members need (ZIP64).
_VERSION: Final = 45
_STORED, _DEFLATED = 0, 8
#: Per entry, an honest central directory has a header, a name and a few dozen bytes of extra fields.
_DIRECTORY_BYTES_PER_ENTRY: Final = _CENTRAL.size + MAX_PATH_BYTES + 512


@dataclass(frozen=True)
class ArchiveLimits:
    """Limits for one archive."""

    #: Entries (files and folders), and folders implied by file names.
    max_files: int = 50_000
    #: Bytes of all contents together.
    max_unpacked: int = 2 << 30
    #: Unpacked bytes per packed byte, for contents of more than `ratio_from` bytes.
    max_ratio: int = 200
    ratio_from: int = 64 << 20


@dataclass(frozen=True)
class ArchiveEntry:
    """A regular file of an archive, with checked name and position."""

    path: str
    executable: bool
    #: Bytes once unpacked, as declared; reading enforces it.
    size: int
    crc: int
    deflated: bool
    packed_size: int
    #: Where its contents begin in the archive.
    offset: int


class Archive:
    """A checked archive over a seekable binary file, which must stay open and be used by this object only."""

    def __init__(self, file: BinaryIO, limits: ArchiveLimits) -> None:
        """Read and check the directory of the archive; raises `InvalidSubmission`."""
        self._file = file
        self.entries: tuple[ArchiveEntry, ...] = _read_directory(file, limits)
        #: Bytes of all contents together.
        self.unpacked_size: int = sum(entry.size for entry in self.entries)

    def read(self, entry: ArchiveEntry) -> Iterator[bytes]:
        """Yield the contents of `entry` in pieces of at most 64 KiB.

        Raises `InvalidSubmission` as soon as they differ from the declaration, at the latest after the last piece.
        """
        total, crc = 0, 0
        pieces = self._inflated(entry) if entry.deflated else self._packed(entry)
        for piece in pieces:
            total += len(piece)
            if total > entry.size:
                raise _refusal(entry.path, f"has more than the {entry.size} bytes that it declares")
            crc = zlib.crc32(piece, crc)
            yield piece
        if total != entry.size:
            raise _refusal(entry.path, f"has {total} bytes but declares {entry.size}")
        if crc != entry.crc:
            raise _refusal(entry.path, "is damaged (its checksum is wrong)")

    def _packed(self, entry: ArchiveEntry) -> Iterator[bytes]:
        self._file.seek(entry.offset)
        left = entry.packed_size
        while left:
            piece = self._file.read(min(left, _PIECE))
            if not piece:
                raise _refusal(entry.path, "is cut off")
            left -= len(piece)
            yield piece

    def _inflated(self, entry: ArchiveEntry) -> Iterator[bytes]:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            for packed in self._packed(entry):
                data = packed
                while data and not inflater.eof:
                    piece = inflater.decompress(data, _PIECE)
                    data = inflater.unconsumed_tail
                    if piece:
                        yield piece
                if inflater.eof and (data or inflater.unused_data):
                    raise _refusal(entry.path, "has data after its end")
            while not inflater.eof:
                piece = inflater.decompress(b"", _PIECE)
                if not piece:
                    raise _refusal(entry.path, "is cut off")
                yield piece
        except zlib.error as error:
            raise _refusal(entry.path, f"is damaged ({error})") from error


def _read_directory(file: BinaryIO, limits: ArchiveLimits) -> tuple[ArchiveEntry, ...]:
    end, count, start, size = _find_directory(file)
    if count > limits.max_files:
        raise InvalidSubmission(f"file: has {count} entries; this runner accepts at most {limits.max_files}")
    if size < count * _CENTRAL.size or size > count * _DIRECTORY_BYTES_PER_ENTRY or start + size != end:
        raise InvalidSubmission("file: not a valid zip archive (its directory has the wrong size or place)")
    file.seek(start)
    members = list(_members(file.read(size), count))
    entries = []
    declared = packed = 0
    for member in members:
        declared += member.size
        packed += member.packed_size
        if declared > limits.max_unpacked:
            raise InvalidSubmission(
                f"file: unpacks to more than {limits.max_unpacked} bytes, the most that this runner accepts"
            )
    if declared > limits.ratio_from and declared > packed * limits.max_ratio:
        raise InvalidSubmission(f"file: unpacks to more than {limits.max_ratio} times its size")
    names = [member.name for member in members]
    check_paths("file", (name for name in names if not name.endswith("/")), max_files=limits.max_files)
    _check_folders(names)
    for member, offset in _locate(file, members, start):
        if not member.name.endswith("/"):
            entries.append(
                ArchiveEntry(
                    path=member.name,
                    executable=bool(member.mode & 0o100),
                    size=member.size,
                    crc=member.crc,
                    deflated=member.method == _DEFLATED,
                    packed_size=member.packed_size,
                    offset=offset,
                )
            )
    return tuple(entries)


def _find_directory(file: BinaryIO) -> tuple[int, int, int, int]:
    """Return where the directory must end, its number of entries, its start and its size in bytes."""
    length = file.seek(0, 2)
    tail_start = max(0, length - _EOCD.size - 0xFFFF)
    file.seek(tail_start)
    tail = file.read()
    index = tail.rfind(b"PK\x05\x06")
    if index < 0 or len(tail) - index < _EOCD.size:
        raise InvalidSubmission("file: not a zip archive")
    _, disk, first_disk, here, count, size, start, comment = _EOCD.unpack_from(tail, index)
    end = tail_start + index
    if end + _EOCD.size + comment != length:
        raise InvalidSubmission("file: not a valid zip archive (there is data after its end)")
    locator_at = end - _EOCD64_LOCATOR.size
    if locator_at >= 0:
        file.seek(locator_at)
        locator = file.read(_EOCD64_LOCATOR.size)
        if locator[:4] == b"PK\x06\x07":
            return _find_directory64(file, locator, locator_at)
    if disk or first_disk or here != count:
        raise InvalidSubmission("file: is one part of a split zip archive; send one whole archive")
    return end, count, start, size


def _find_directory64(file: BinaryIO, locator: bytes, locator_at: int) -> tuple[int, int, int, int]:
    _, _, end, disks = _EOCD64_LOCATOR.unpack(locator)
    if disks != 1 or end + _EOCD64.size != locator_at:
        raise InvalidSubmission("file: not a valid zip archive (its ZIP64 record is misplaced)")
    file.seek(end)
    record = _EOCD64.unpack(file.read(_EOCD64.size))
    signature, length, _, _, disk, first_disk, here, count, size, start = record
    if signature != b"PK\x06\x06" or length != _EOCD64.size - 12 or disk or first_disk or here != count:
        raise InvalidSubmission("file: not a valid zip archive (its ZIP64 record is damaged)")
    return end, count, start, size


@dataclass(frozen=True)
class _Member:
    """One line of the central directory."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed_size: int
    size: int
    mode: int
    header: int


class _Line(NamedTuple):
    """The fixed part of a line of the central directory."""

    signature: bytes
    version_made_by: int
    version_needed: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    packed: int
    size: int
    name_length: int
    extra_length: int
    comment_length: int
    disk: int
    internal: int
    external: int
    header: int


def _members(directory: bytes, count: int) -> Iterator[_Member]:
    position = 0
    for _ in range(count):
        if position + _CENTRAL.size > len(directory):
            raise InvalidSubmission("file: not a valid zip archive (its directory is cut off)")
        head = _Line._make(_CENTRAL.unpack_from(directory, position))
        position += _CENTRAL.size
        name_end = position + head.name_length
        extra_end = name_end + head.extra_length
        member = _member(head, directory[position:name_end], directory[name_end:extra_end])
        position = extra_end + head.comment_length
        if position > len(directory):
            raise InvalidSubmission("file: not a valid zip archive (its directory is cut off)")
        yield member
    if position != len(directory):
        raise InvalidSubmission("file: not a valid zip archive (its directory holds more than it declares)")


def _member(head: _Line, raw_name: bytes, extra: bytes) -> _Member:
    """Check one line of the directory by itself."""
    version, flags, method, external = head.version_needed, head.flags, head.method, head.external
    if head.signature != b"PK\x01\x02":
        raise InvalidSubmission("file: not a valid zip archive (its directory is damaged)")
    try:
        name = raw_name.decode()
    except UnicodeDecodeError as error:
        raise _refusal(raw_name.decode("latin-1"), "has a name that is not UTF-8") from error
    size, packed, header = _widened(name, extra, head.size, head.packed, head.header)
    problem = path_problem(name.removesuffix("/"))
    if problem is None and head.disk:
        problem = "is in another part of a split archive"
    if problem is None and flags & _FORBIDDEN_FLAGS:
        problem = "is encrypted"
    if problem is None and method not in (_STORED, _DEFLATED):
        problem = f"uses compression method {method}; only stored and deflated are accepted"
    if problem is None and version > _VERSION:
        problem = f"needs version {version / 10} of the zip format"
    kind = stat.S_IFMT(external >> 16)
    if problem is None and kind not in (0, stat.S_IFDIR if name.endswith("/") else stat.S_IFREG):
        problem = "is a symbolic link" if kind == stat.S_IFLNK else "is neither a regular file nor a folder"
    if problem is None and name.endswith("/") and size:
        problem = "is a folder with contents"
    if problem is None and method == _STORED and packed != size:
        problem = "declares two different sizes"
    if problem is not None:
        raise _refusal(name, problem)
    return _Member(name, raw_name, flags, method, head.crc, packed, size, external >> 16, header)


def _widened(name: str, extra: bytes, *values: int) -> tuple[int, int, int]:
    """Return the three numbers of a directory line, from its ZIP64 field if the short form is all ones."""
    result: list[int] = list(values)
    position = 0
    wide = b""
    while position + 4 <= len(extra):
        identifier, length = struct.unpack_from("<HH", extra, position)
        if position + 4 + length > len(extra):
            raise _refusal(name, "has a damaged extra field")
        if identifier == 1:
            wide = extra[position + 4 : position + 4 + length]
        position += 4 + length
    for index, value in enumerate(result):
        if value == 0xFFFFFFFF:
            if len(wide) < 8:
                raise _refusal(name, "lacks its ZIP64 sizes")
            result[index] = int.from_bytes(wide[:8], "little")
            wide = wide[8:]
    return result[0], result[1], result[2]


def _locate(file: BinaryIO, members: list[_Member], end: int) -> Iterator[tuple[_Member, int]]:
    """Yield each member with the position of its contents; members must not overlap and local headers must agree."""
    ordered = sorted(members, key=lambda member: member.header)
    starts = {}
    for index, member in enumerate(ordered):
        limit = ordered[index + 1].header if index + 1 < len(ordered) else end
        starts[member.header] = _check_local(file, member, limit)
    return ((member, starts[member.header]) for member in members)


def _check_local(file: BinaryIO, member: _Member, limit: int) -> int:
    file.seek(member.header)
    head = file.read(_LOCAL.size)
    if len(head) != _LOCAL.size or head[:4] != b"PK\x03\x04":
        raise _refusal(member.name, "has no header at the position in the directory")
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(head)
    start: int = member.header + _LOCAL.size + name_length + extra_length
    if start + member.packed_size > limit:
        raise _refusal(member.name, "overlaps another entry")
    flags_differ = (flags ^ member.flags) & (_FORBIDDEN_FLAGS | _UTF8)
    if file.read(name_length) != member.raw_name or method != member.method or flags_differ:
        raise _refusal(member.name, "differs between its header and the directory")
    if not flags & _DATA_DESCRIPTOR:
        pairs = ((crc, member.crc), (packed, member.packed_size), (size, member.size))
        if any(mine != theirs and mine != 0xFFFFFFFF for mine, theirs in pairs):
            raise _refusal(member.name, "differs between its header and the directory")
    return start


def _check_folders(names: list[str]) -> None:
    """Check that explicit folders are neither named twice nor files."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.rstrip("/"), name)
        if other is not name:
            raise _refusal(name, "occurs twice")


def _refusal(path: str, problem: str) -> InvalidSubmission:
    return InvalidSubmission(f"file: entry {shown(path)} {problem}")
