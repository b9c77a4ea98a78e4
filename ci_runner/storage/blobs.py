"""Contents by their SHA-256: what workspaces and artifacts are made of, kept once per data directory.

`blobs/ab/<sha256>` is the content with mode 0644 and `<sha256>.x` its executable twin with mode 0755, made
when first asked for: trees are hard links to these, and a mode belongs to the inode. What is on disk under
its digest is complete and durable: contents are written in `uploads/`, synced, then renamed. There, each writer
has a locked folder of its own, so that what a killed one left is known from what is being written. Who may use
a digest is for the store to say; when a blob may go is for the controller.
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

#: The uid that containers run as when the runner is root: nobody's, in every base image.
UNPRIVILEGED_UID: Final = 65532

_Item = TypeVar("_Item")

_PIECE: Final = 1 << 16
#: Contents up to this size are hashed in memory first, so that what is there already costs no write.
_IN_MEMORY: Final = 1 << 20
_SYNC_THREADS: Final = 8
#: Seconds within which a folder's newest entry may not be durable yet.
_UNSURE: Final = 60.0

_WRITTEN = failpoints.register("blobs.batch.written", "contents are in uploads/, not yet synced")
_SYNCED = failpoints.register(
    "blobs.batch.synced", "contents are durable in uploads/, not yet under their digests"
)
_KEPT = failpoints.register("blobs.batch.kept", "contents are durable under their digests")


def job_owner() -> int | None:
    """The uid that trees and spools must be given to; None when that is the runner's own."""
    return UNPRIVILEGED_UID if os.geteuid() == 0 else None


class BlobStore:
    """The blobs of one data directory. Methods may be called from any thread and any process at once."""

    def __init__(self, root: Path, owner: int | None) -> None:
        """`root` is the data directory; `owner` is `job_owner()`."""
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
        """Keep one content; its digest and size. Raises `InvalidSubmission` when it is not as `expected`."""
        with self.batch() as batch:
            result = batch.put(pieces, expected=expected)
            batch.commit()
        return result

    def put_bytes(self, content: bytes) -> str:
        """Keep a small content; its digest."""
        return self.put_stream([content])[0]

    def batch(self) -> Batch:
        """Keep many contents with few waits for the disk; nothing is kept unless `Batch.commit` is called."""
        return Batch(self)

    def assemble_manifest(self, archive: Archive) -> Manifest:
        """Keep every file of `archive` and say what they are. Raises `InvalidSubmission`, keeping nothing."""
        entries = []
        with self.batch() as batch:
            for entry in archive.entries:
                digest, size = batch.put(archive.read(entry))
                entries.append(ManifestEntry(entry.path, 0o755 if entry.executable else 0o644, size, digest))
            batch.commit()
        return Manifest(tuple(sorted(entries, key=lambda entry: entry.path)))

    def put_manifest(self, manifest: Manifest) -> str:
        """Keep the canonical form of `manifest`; its digest names the workspace."""
        return self.put_bytes(manifest.canonical())

    def has(self, digest: str) -> bool:
        """Whether the content is here."""
        return self.size(digest) is not None

    def renew(self, digest: str) -> bool:
        """Whether the content is here; if so, it is sent again as of now, and not collected for a while.

        The access time says so: trees are hard links, and no file of a running job may get another modification time.
        """
        with self.granting(), contextlib.suppress(FileNotFoundError):
            place = self._place(digest)
            os.utime(place, ns=(time.time_ns(), place.stat().st_mtime_ns))
            return True
        return False

    def size(self, digest: str) -> int | None:
        """Bytes of the content, or None when it is not here."""
        try:
            return os.stat(self._name(digest)).st_size  # noqa: PTH116 - asked for every file of every project
        except FileNotFoundError:
            return None

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of `digests` that are not here, each once, in order."""
        return [digest for digest in dict.fromkeys(digests) if not self.has(digest)]

    def open(self, digest: str) -> BinaryIO:
        """The content, to be read and closed. Raises `NotFound`."""
        try:
            return self._place(digest).open("rb")
        except FileNotFoundError as error:
            raise NotFound(f"blob {digest} is not here") from error

    def path(self, digest: str, executable: bool = False) -> Path:
        """A file with the content and the right mode, never to be written to. Raises `NotFound`."""
        if not self.has(digest):
            raise NotFound(f"blob {digest} is not here")
        plain = self._place(digest)
        if not executable:
            return plain
        twin = plain.with_name(plain.name + ".x")
        if not twin.exists():
            with contextlib.closing(Scratch(self.uploads)) as scratch:
                file, name = scratch.file()
                with plain.open("rb") as source, file as target:
                    shutil.copyfileobj(source, target, _PIECE)
                    self._settle(target, 0o755)
                name.rename(twin)
        return twin

    def remove(self, digest: str) -> None:
        """Forget the content; trees that link to it keep it. Harmless when it is not here."""
        plain = self._place(digest)
        plain.with_name(plain.name + ".x").unlink(missing_ok=True)
        plain.unlink(missing_ok=True)

    @contextlib.contextmanager
    def granting(self) -> Iterator[None]:
        """While the block runs nothing is collected: for granting contents and seeing that they are here. Short."""
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """While the block runs nobody is granting: for asking who may use contents and removing them. Short."""
        with self._locked(fcntl.LOCK_EX):
            yield

    def aged(self, before: float) -> Iterator[list[str]]:
        """Digests of what nobody has sent since `before` (seconds since the epoch), in portions."""
        for folder in sorted(self._blobs.iterdir()):
            yield [
                path.name for path in folder.iterdir() if is_digest(path.name) and _last_sent(path) < before
            ]

    def remove_aged(self, digest: str, before: float) -> bool:
        """`remove`, unless somebody has sent the content since `before`; whether it went."""
        if _last_sent(self._place(digest)) >= before:
            return False
        self.remove(digest)
        return True

    def free_bytes(self) -> int:
        """Bytes free on the blobs' file system."""
        return shutil.disk_usage(self._blobs).free

    def sweep_uploads(self) -> int:
        """Remove what writers that died left behind; how many folders went. What is being written stays."""
        return sum(remove_abandoned(path) for path in self.uploads.iterdir() if not path.is_symlink())

    def _place(self, digest: str) -> Path:
        return Path(self._name(digest))

    def _name(self, digest: str) -> str:
        if not is_digest(digest):
            raise ValueError(f"{digest!r} is no SHA-256 digest")
        return f"{self._base}/{digest[:2]}/{digest}"

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    def _settle(self, file: BinaryIO, mode: int) -> None:
        """Give a finished file its mode and owner, and wait until it is durable."""
        file.flush()
        if self._owner is not None:
            os.fchown(file.fileno(), self._owner, self._owner)
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


class Batch:
    """Contents on their way in; leaving its `with` block drops what was not committed. One thread only."""

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
        """Take in one content; its digest and size. Raises `InvalidSubmission` when not as `expected`."""
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
        failpoints.hit(_KEPT)

    def _sync(self, path: Path) -> None:
        with path.open("rb+") as file:
            self._store._settle(file, 0o644)


class _Incoming:
    """One content while it arrives: in memory as long as it is small, so that a known one costs no write."""

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
        """The file with the content; the caller removes it."""
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
    """When it was last sent (or read, at most); infinite for what is gone meanwhile."""
    try:
        return path.stat().st_atime
    except FileNotFoundError:
        return float("inf")


def in_parallel(action: Callable[[_Item], None], items: Iterable[_Item]) -> None:
    """Call `action` on all `items`, several at once where that pays; raises the first error."""
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
