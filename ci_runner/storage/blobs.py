"""Blobs: contents by SHA-256, of which workspaces and artifacts are made; stored once per data directory.

`blobs/ab/<sha256>` is the content with mode 0644. Twins with other modes, such as the executable `<sha256>.x`, are
made at first use: trees are hard links to these, and a mode belongs to the inode. A file on disk under its digest is
complete and durable: contents are written in `uploads/`, synced, then renamed. Each writer has a locked folder there,
which distinguishes a killed writer's files from those being written. The store decides who may use a digest, and the
controller when a blob is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, TypeVar

from ci_runner import failpoints
from ci_runner.errors import InvalidSubmission, NotFound
from ci_runner.storage.staging import Scratch, remove_abandoned
from ci_runner.storage.zip_reader import Archive
from pytest_remote_ci.wire.protocol import Manifest, ManifestEntry, is_digest

#: The uid of containers if the runner is root: no base image has a user with it.
UNPRIVILEGED_UID: Final = 65532

#: Mode of a content's twin → the suffix of its name.
_TWINS: Final = {0o755: ".x", 0o444: ".r", 0o555: ".rx"}

_Item = TypeVar("_Item")

_PIECE: Final = 1 << 16
#: Contents up to this size are hashed in memory first, so that a known one costs no write.
_IN_MEMORY: Final = 1 << 20
_SYNC_THREADS: Final = 8
#: Seconds within which a folder's newest entry may not be durable yet.
_UNSURE: Final = 60.0

_WRITTEN = failpoints.register("blobs.batch.written", "contents are in uploads/, not yet synced")
_SYNCED = failpoints.register(
    "blobs.batch.synced", "contents are durable in uploads/, not yet under their digests"
)
_STORED = failpoints.register("blobs.batch.stored", "contents are durable under their digests")


def job_owner() -> int | None:
    """Return the uid to give trees and spools to; None if it is the runner's own."""
    return UNPRIVILEGED_UID if os.geteuid() == 0 else None


class BlobStore:
    """The blobs of one data directory. Safe to use from several threads and processes at once."""

    def __init__(self, root: Path, owner: int | None) -> None:
        """Use the data directory `root`; `owner` is `job_owner()`."""
        self._blobs = root / "blobs"
        self._base = os.fspath(self._blobs)
        #: Where contents are received; on the blobs' file system.
        self.uploads: Final = root / "uploads"
        self._owner = owner
        self._lock = root / "blobs.lock"
        for folder in (self._blobs, self.uploads):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put_stream(
        self, pieces: Iterable[bytes] | BinaryIO, *, expected: str | None = None
    ) -> tuple[str, int]:
        """Store one content; return its digest and size. Raises `InvalidSubmission` if it differs from `expected`."""
        with self.batch() as batch:
            result = batch.put(pieces, expected=expected)
            batch.commit()
        return result

    def put_bytes(self, content: bytes) -> str:
        """Store a small content; return its digest."""
        return self.put_stream([content])[0]

    def batch(self) -> Batch:
        """Return a batch for many contents with few waits for the disk; `Batch.commit` stores them."""
        return Batch(self)

    def assemble_manifest(self, archive: Archive) -> Manifest:
        """Store every file of `archive` and return their manifest. Raises `InvalidSubmission`, storing nothing."""
        entries = []
        with self.batch() as batch:
            for entry in archive.entries:
                digest, size = batch.put(archive.read(entry))
                entries.append(ManifestEntry(entry.path, 0o755 if entry.executable else 0o644, size, digest))
            batch.commit()
        return Manifest(tuple(sorted(entries, key=lambda entry: entry.path)))

    def put_manifest(self, manifest: Manifest) -> str:
        """Store the canonical form of `manifest`; return its digest, the workspace's name."""
        return self.put_bytes(manifest.canonical())

    def has(self, digest: str) -> bool:
        """Return whether the content exists."""
        return self.size(digest) is not None

    def renew(self, digest: str) -> bool:
        """Return whether the content exists; if so, count it as sent now, so that it is not collected for a while.

        This is recorded as access time: trees are hard links, and a running job's files must keep their modification
        time.
        """
        with self.granting(), contextlib.suppress(FileNotFoundError):
            place = self._place(digest)
            os.utime(place, ns=(time.time_ns(), place.stat().st_mtime_ns))
            return True
        return False

    def size(self, digest: str) -> int | None:
        """Return the content's size in bytes, or None if it does not exist."""
        try:
            return os.stat(self._name(digest)).st_size  # noqa: PTH116 - asked for every file of every project
        except FileNotFoundError:
            return None

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Return those of `digests` that do not exist, each once, in order."""
        return [digest for digest in dict.fromkeys(digests) if not self.has(digest)]

    def open(self, digest: str) -> BinaryIO:
        """Open the content for reading; the caller closes it. Raises `NotFound`."""
        try:
            return self._place(digest).open("rb")
        except FileNotFoundError as error:
            raise NotFound("Content not found", digest) from error

    def path(self, digest: str, mode: int = 0o644) -> Path:
        """Return a file with the content and this mode, never to be written to. Raises `NotFound`."""
        if not self.has(digest):
            raise NotFound("Content not found", digest)
        plain = self._place(digest)
        if mode not in _TWINS:
            return plain
        twin = plain.with_name(plain.name + _TWINS[mode])
        if not twin.exists():
            with contextlib.closing(Scratch(self.uploads)) as scratch:
                file, name = scratch.file()
                with plain.open("rb") as source, file as target:
                    shutil.copyfileobj(source, target, _PIECE)
                    self._finalize(target, mode)
                name.rename(twin)
        return twin

    def remove(self, digest: str) -> None:
        """Remove the content; trees that link to it keep it. Harmless if it does not exist."""
        plain = self._place(digest)
        for suffix in _TWINS.values():
            plain.with_name(plain.name + suffix).unlink(missing_ok=True)
        plain.unlink(missing_ok=True)

    @contextlib.contextmanager
    def granting(self) -> Iterator[None]:
        """Prevent collection during the block, for granting contents and checking that they exist. Keep it short."""
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Prevent grants during the block, for checking who may use contents and removing them. Keep it short."""
        with self._locked(fcntl.LOCK_EX):
            yield

    def aged(self, before: float) -> Iterator[list[str]]:
        """Yield digests not sent since `before` (seconds since the epoch), in portions."""
        for folder in sorted(self._blobs.iterdir()):
            yield [
                path.name for path in folder.iterdir() if is_digest(path.name) and _last_sent(path) < before
            ]

    def remove_aged(self, digest: str, before: float) -> bool:
        """Remove the content unless it was sent since `before`; return whether it was removed."""
        if _last_sent(self._place(digest)) >= before:
            return False
        self.remove(digest)
        return True

    def free_bytes(self) -> int:
        """Return the bytes free on the blobs' file system."""
        return shutil.disk_usage(self._blobs).free

    def sweep_uploads(self) -> int:
        """Remove the files of dead writers; return the number of folders removed. Files being written stay."""
        return sum(remove_abandoned(path) for path in self.uploads.iterdir() if not path.is_symlink())

    def _place(self, digest: str) -> Path:
        return Path(self._name(digest))

    def _name(self, digest: str) -> str:
        if not is_digest(digest):
            raise ValueError(f"{digest!r} is not a SHA-256 digest")
        return f"{self._base}/{digest[:2]}/{digest}"

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    def _finalize(self, file: BinaryIO, mode: int) -> None:
        """Give a finished file its mode and owner, and wait until it is durable."""
        file.flush()
        if self._owner is not None:
            os.fchown(file.fileno(), self._owner, self._owner)
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


class Batch:
    """Contents being stored; leaving its `with` block drops those not committed. For one thread only."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._scratch = Scratch(store.uploads)
        self._received: dict[str, Path] = {}
        self._known: set[str] = set()

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._received.clear()
        self._scratch.close()

    def put(self, pieces: Iterable[bytes] | BinaryIO, *, expected: str | None = None) -> tuple[str, int]:
        """Receive one content; return its digest and size.

        Raises `InvalidSubmission` if it differs from `expected`.
        """
        incoming = _Incoming(self._scratch)
        try:
            for piece in _pieces(pieces):
                incoming.write(piece)
            digest = incoming.digest
            if expected is not None and digest != expected:
                raise InvalidSubmission(f"file: entry {expected!r} has contents of another digest")
            if digest not in self._received and digest not in self._known:
                if self._store.renew(digest):
                    self._known.add(digest)
                else:
                    self._received[digest] = incoming.keep()
            return digest, incoming.size
        finally:
            incoming.close()

    def commit(self) -> None:
        """Make everything durable, then visible under its digest."""
        failpoints.hit(_WRITTEN)
        blobs = self._store._blobs
        places = {digest: self._store._place(digest) for digest in (*self._received, *self._known)}
        for folder in {place.parent for place in places.values()}:
            folder.mkdir(mode=0o700, exist_ok=True)
        in_parallel(self._sync, self._received.values())
        failpoints.hit(_SYNCED)
        folders = {blobs}
        for digest, temporary in self._received.items():
            temporary.rename(places[digest])
            folders.add(places[digest].parent)
        self._received.clear()
        for digest in self._known:
            place = places[digest]
            if place.parent.stat().st_mtime > time.time() - _UNSURE:
                folders.add(place.parent)
        in_parallel(_sync_folder, folders)
        failpoints.hit(_STORED)

    def _sync(self, path: Path) -> None:
        with path.open("rb+") as file:
            self._store._finalize(file, 0o644)


class _Incoming:
    """One content being received: in memory as long as it is small, so that a known one costs no write."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._hasher = hashlib.sha256()
        self._held: list[bytes] = []
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self.size = 0

    @property
    def digest(self) -> str:
        return self._hasher.hexdigest()

    def write(self, piece: bytes) -> None:
        self._hasher.update(piece)
        self.size += len(piece)
        if self._file is not None:
            self._file.write(piece)
            return
        self._held.append(piece)
        if self.size > _IN_MEMORY:
            self._spill()

    def keep(self) -> Path:
        """Return the file with the content; the caller removes it."""
        file = self._file or self._spill()
        file.close()
        path, self._path = self._path, None
        assert path is not None
        return path

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _spill(self) -> BinaryIO:
        self._file, self._path = self._scratch.file()
        self._file.writelines(self._held)
        self._held.clear()
        return self._file


def _pieces(source: Iterable[bytes] | BinaryIO) -> Iterator[bytes]:
    if not hasattr(source, "read"):
        yield from source
        return
    while piece := source.read(_PIECE):
        yield piece


def _last_sent(path: Path) -> float:
    """Return when it was last sent (or possibly read); infinite if it is gone meanwhile."""
    try:
        return path.stat().st_atime
    except FileNotFoundError:
        return float("inf")


def in_parallel(action: Callable[[_Item], None], items: Iterable[_Item]) -> None:
    """Call `action` on all `items`, several at once if that is faster; raise the first error."""
    todo = list(items)
    if len(todo) < _SYNC_THREADS:
        for item in todo:
            action(item)
        return
    with ThreadPoolExecutor(_SYNC_THREADS, thread_name_prefix="blob-sync") as pool:
        for _ in pool.map(action, todo):
            pass


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
