"""Cache of facts about files, validated by `stat`, so that a warm start reads no file.

There is one JSON file per project in the user's cache folder. An entry is valid only if size, modification time,
change time and inode are all unchanged. An entry is written only if the file was at rest when it was read (git's rule
for racy entries). The cache is optional: if anything goes wrong with it, files are read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from pytest_remote_ci.workspace import breakpoints, secret_files

_FORMAT: Final = 2
#: A file changed within this time may change again without a change of its times (coarse clocks of file systems).
_REST_NS: Final = 2_000_000_000
#: Cache files of projects that have not been used for this long are deleted.
_KEEP_SECONDS: Final = 60 * 86_400
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Facts:
    """Facts from reading a file."""

    #: Bytes read.
    size: int
    #: Hexadecimal SHA-256.
    sha256: str
    #: The kind of secret that the file looks like, in words, or None.
    secret: str | None
    #: Line of the first debugger call in a Python file, if any.
    debugger: int | None = None


class _Entry(NamedTuple):
    """A file's entry in the cache, a list in JSON."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sha256: str
    secret: str | None
    debugger: int | None


class StatCache:
    """Facts of one project's files. Not thread-safe."""

    def __init__(self, folder: Path | None, root: Path) -> None:
        """Read the cache file in `folder`, the cache folder. None disables caching."""
        name = hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
        self._file = None if folder is None else folder / "stat" / f"{name}.json"
        self._before = self._read()
        self._now: dict[str, list[object]] = {}
        self._changed = False
        #: Number of files that had to be read.
        self.misses = 0

    def facts(self, path: str, source: str, known: os.stat_result) -> Facts:
        """Return facts of the file `source`, which is sent as `path`; `known` is its stat. Raises `OSError`."""
        entry = self._before.get(path)
        key = _key(known)
        if entry is not None and entry[:4] == key:
            self._now[path] = entry
            stored = _Entry._make(entry)
            return Facts(known.st_size, stored.sha256, stored.secret, stored.debugger)
        self.misses += 1
        started = time.time_ns()
        facts, after = _read_facts(path, source)
        if _key(after) == key and max(known.st_mtime_ns, known.st_ctime_ns) < started - _REST_NS:
            self._now[path] = [*key, facts.sha256, facts.secret, facts.debugger]
            self._changed = True
        return facts

    def save(self) -> None:
        """Write the new facts and drop files that are gone. Errors are ignored: the next start reads files again."""
        if self._file is None or not (self._changed or self._now.keys() != self._before.keys()):
            return
        with suppress(OSError):
            fresh = not self._file.parent.is_dir()
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not fresh:
                self._forget_old()
            handle, temporary = tempfile.mkstemp(dir=self._file.parent, prefix=".new-")
            try:
                with os.fdopen(handle, "w", encoding="ascii") as stream:
                    stream.write(json.dumps({"format": _format(), "files": self._now}, separators=(",", ":")))
                Path(temporary).replace(self._file)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise

    def _read(self) -> dict[str, list[object]]:
        if self._file is None:
            return {}
        try:
            stored = json.loads(self._file.read_bytes())
            if stored["format"] == _format():
                files: dict[str, list[object]] = stored["files"]
                if all(len(entry) == 7 for entry in files.values()):
                    return files
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return {}

    def _forget_old(self) -> None:
        assert self._file is not None
        oldest = time.time() - _KEEP_SECONDS
        for other in self._file.parent.iterdir():
            if other != self._file and other.stat().st_mtime < oldest:
                other.unlink(missing_ok=True)


def _format() -> list[int]:
    return [_FORMAT, secret_files.TABLE_VERSION]


def _key(known: os.stat_result) -> list[int]:
    return [known.st_size, known.st_mtime_ns, known.st_ctime_ns, known.st_ino]


def _read_facts(path: str, source: str) -> tuple[Facts, os.stat_result]:
    """Return a file's facts and its stat after reading."""
    digest = hashlib.sha256()
    size = 0
    head = b""
    handle = os.open(source, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        while chunk := os.read(handle, _CHUNK):
            if size < secret_files.CONTENT_LIMIT:
                head += chunk[: secret_files.CONTENT_LIMIT - size]
            digest.update(chunk)
            size += len(chunk)
        after = os.fstat(handle)
    finally:
        os.close(handle)
    debugger = breakpoints.find_call(head) if path.endswith(".py") else None
    return Facts(size, digest.hexdigest(), secret_files.find(path, head), debugger), after
