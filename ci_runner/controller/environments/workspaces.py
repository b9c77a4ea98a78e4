"""Workspaces as folders: one tree per manifest, assembled once, never mounted writable.

Each path of a tree is a separate inode, as in the developer's project: the first path of a content is a hard link to
its blob, every other one a copy (which shares the blob's blocks if the file system can). A tree is complete once
`trees/<digest>.ok` exists; that file's time is the last use. Jobs write to overlays elsewhere. The user's access to
these contents was checked at submission.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import posixpath
import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, Final

from ci_runner import failpoints
from ci_runner.dependencies.project import Tree
from ci_runner.errors import NotFound, PermanentError, StorageFull
from ci_runner.model.path_checks import target_problem
from ci_runner.storage.blobs import BlobStore, in_parallel
from ci_runner.storage.safe_fs import Trash
from pytest_remote_ci.wire.protocol import Manifest, ManifestEntry, is_digest

_log = logging.getLogger(__name__)

_ASSEMBLED = failpoints.register("controller.tree.assembled", "a tree is whole, not yet published")
_PUBLISHED = failpoints.register("controller.tree.published", "a tree is published, not marked complete")

#: The kernel's refusals to copy within itself; reading and writing works nevertheless.
_COPY_REFUSED: Final = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)

#: Links that may lead to links until a file is found, and names that links may add to a workspace's files.
_MOST_HOPS: Final = 8
_MOST_ALIASES: Final = 10_000
#: Parsed manifests to keep in memory.
_REMEMBERED: Final = 16


class Workspaces:
    """The trees of one data directory. Thread-safe."""

    def __init__(self, data_dir: Path, blobs: BlobStore, owner: int | None) -> None:
        """Give trees to the uid `owner`; None: they stay the runner's."""
        self._root = data_dir / "trees"
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._blobs = blobs
        self._owner = owner
        self._trash = Trash(data_dir / "trash")
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()

    def tree(self, digest: str) -> Path:
        """Return the folder of a workspace, assembled if absent. Raises `PermanentError`, `StorageFull`."""
        if not is_digest(digest):
            raise PermanentError("the job has no workspace")
        folder, mark = self._root / digest, self._root / f"{digest}.ok"
        if _touch(mark):
            return folder
        with self._guard:
            lock = self._locks.setdefault(digest, threading.Lock())
        with lock:
            if not _touch(mark):
                try:
                    self._assemble(digest, folder)
                    failpoints.hit(_PUBLISHED)
                    mark.touch()
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise StorageFull("the runner's disk is full") from error
                    raise
        with self._guard:
            self._locks.pop(digest, None)
        return folder

    def files(self, digest: str) -> Tree:
        """Return the workspace's files for `ci_runner.dependencies.install_plan`; reads blobs.

        Links are replaced by the files that they lead to.
        """
        manifest = self._manifest(digest)
        digests = _resolved({entry.path: entry.sha256 for entry in manifest.files}, manifest.links)

        def content(path: str) -> bytes:
            with self._blobs.open(digests[path]) as file:
                return file.read()

        return Tree(digests, content)

    def times(self, digest: str) -> dict[str, int]:
        """Return path → modification time in nanoseconds, as submitted."""
        try:
            with self._blobs.open(digest) as file:
                found: dict[str, int] = json.load(file)
        except NotFound as error:
            raise PermanentError("the job's workspace is no longer on the runner: submit it again") from error
        return found

    def remove(self, digest: str) -> None:
        """Remove a tree."""
        self.destroy(self.hide(digest))

    def hide(self, digest: str) -> Path:
        """Take a tree out of use, quickly; pass the result to `destroy`.

        Removes the marker first, so that a half-removed tree is never used.
        """
        (self._root / f"{digest}.ok").unlink(missing_ok=True)
        doomed = self._root / f".del-{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            (self._root / digest).rename(doomed)
        return doomed

    def destroy(self, hidden: Path) -> None:
        """Remove the result of `hide`."""
        try:
            self._trash.remove(hidden)
        except OSError as error:  # already hidden; emptying the trash is repeated
            _log.warning("a tree could not be removed as a whole: %s", error)

    def unused(self) -> list[tuple[float, str]]:
        """Return (time of last use, digest) of every complete tree, least recently used first."""
        return sorted((path.stat().st_mtime, path.stem) for path in self._root.glob("*.ok"))

    def rows(self, digest: str) -> Mapping[str, tuple[int, str]]:
        """Return path → (mode, digest of the content) of the files; reads the manifest. Raises `PermanentError`."""
        return {entry.path: (entry.mode, entry.sha256) for entry in self._manifest(digest).files}

    def changes(self, before: str, after: str) -> list[ManifestEntry | str] | None:
        """Return what has to change in a workspace to get another: new entries, and paths of files to remove.

        Return None if more differs than files: links, or which folders there are.
        """
        old, new = self._manifest(before), self._manifest(after)
        if old is new:
            return []
        if old.links != new.links or old.folders != new.folders:
            return None
        was = {entry.path: entry for entry in old.files}
        now = {entry.path: entry for entry in new.files}
        if _parents(was) != _parents(now):
            return None
        changed = [entry for path, entry in now.items() if was.get(path) != entry]
        return [*(path for path in was if path not in now), *changed]

    def copy_content(self, entry: ManifestEntry, target: Path) -> None:
        """Copy a file's content to a new file, with its mode, times and owner."""
        self._copy(os.fspath(self._blobs.path(entry.sha256, entry.mode)), os.fspath(target))

    def _manifest(self, digest: str) -> Manifest:
        with self._guard:
            manifest = self._manifests.get(digest)
            if manifest is not None:
                self._manifests.move_to_end(digest)
                return manifest
        try:
            with self._blobs.open(digest) as file:
                manifest = Manifest.from_canonical(file.read())
        except NotFound as error:
            raise PermanentError("the job's workspace is no longer on the runner: submit it again") from error
        with self._guard:
            self._manifests[digest] = manifest
            while len(self._manifests) > _REMEMBERED:
                self._manifests.popitem(last=False)
        return manifest

    def _assemble(self, digest: str, folder: Path) -> None:
        """Assemble everything in a temporary folder, then rename it once."""
        manifest = self._manifest(digest)
        temporary = self._root / f".tmp-{uuid.uuid4().hex}"
        temporary.mkdir(mode=0o755)
        base = os.fspath(temporary)
        try:
            self._own(base)
            made, linked, copies = {""}, set(), []
            for entry in manifest.files:
                parent = _check(entry.path)
                if parent not in made:
                    self._folders(base, parent, made)
                try:
                    source = os.fspath(self._blobs.path(entry.sha256, entry.mode))
                except NotFound as error:
                    raise PermanentError(
                        f"the contents of {entry.path} are no longer on the runner: submit again"
                    ) from error
                target = f"{base}/{entry.path}"
                if source in linked or not _link(source, target):
                    self._copy(source, target)
                    copies.append(target)
                linked.add(source)
            for folder_path in manifest.folders:
                _check(folder_path)
                self._folders(base, folder_path, made)
            self._links(base, manifest.links, made)
            # Blobs are durable; without this, a power loss could leave an empty copy in a complete tree.
            in_parallel(_sync, copies)
            failpoints.hit(_ASSEMBLED)
            self.destroy(folder)  # published, but never marked complete
            temporary.rename(folder)
        except FileExistsError as error:
            self.destroy(temporary)
            raise PermanentError(
                f"{os.path.relpath(error.filename2 or error.filename, base)} and another name of the project are one "
                "on the runner's file system, which ignores case or Unicode forms: rename one of them"
            ) from error
        except BaseException:
            self.destroy(temporary)
            raise

    def _links(self, base: str, links: Mapping[str, str], made: set[str]) -> None:
        """Make the symbolic links last: nothing is ever made or opened below one."""
        for path, target in links.items():
            parent = _check(path)
            problem = target_problem(path, target)
            if problem is not None:
                raise PermanentError(f"the workspace's entry {path!r} {problem}")
            if parent not in made:
                self._folders(base, parent, made)
            Path(base, path).symlink_to(target)
            if self._owner is not None:
                os.chown(f"{base}/{path}", self._owner, self._owner, follow_symlinks=False)

    def _folders(self, base: str, parent: str, made: set[str]) -> None:
        parts = parent.split("/")
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            if path not in made:
                os.mkdir(f"{base}/{path}", 0o755)  # noqa: PTH102  # thousands of them
                self._own(f"{base}/{path}")
                made.add(path)

    def _own(self, path: str) -> None:
        if self._owner is not None:
            os.chown(path, self._owner, self._owner)

    def _copy(self, source: str, target: str) -> None:
        """Copy a blob with its mode, times and owner."""
        with Path(source).open("rb", buffering=0) as reading, Path(target).open("xb", buffering=0) as writing:
            status = os.fstat(reading.fileno())
            if status.st_size:
                _copy_content(reading, writing, status.st_size)
            if self._owner is not None:
                os.fchown(writing.fileno(), self._owner, self._owner)
            os.fchmod(writing.fileno(), status.st_mode & 0o7777)
            os.utime(writing.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))


def _resolved(digests: dict[str, str], links: Mapping[str, str]) -> dict[str, str]:
    """Return path → digest with links to files and folders replaced by what they lead to, as text, bounded."""
    found = dict(digests)
    for _ in range(_MOST_HOPS if links else 0):
        before = len(found)
        for path, text in links.items():
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), text))
            if target in found:
                found.setdefault(path, found[target])
            elif target != "." and not path.startswith(f"{target}/"):
                below = [name for name in found if name.startswith(f"{target}/")]
                for name in below[: _MOST_ALIASES - len(found) + len(digests)]:
                    found.setdefault(f"{path}{name[len(target) :]}", found[name])
        if len(found) == before:
            break
    return found


def _parents(files: Iterable[str]) -> set[str]:
    return {posixpath.dirname(path) for path in files}


def _link(source: str, target: str) -> bool:
    """Make a hard link; return False if the file system allows no more of them."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EMLINK, errno.EPERM, errno.EXDEV):
            raise
        return False
    return True


def _copy_content(reading: BinaryIO, writing: BinaryIO, size: int) -> None:
    """Copy within the kernel, which shares the blocks if the file system can (XFS, btrfs); else read and write."""
    try:
        while size and (copied := os.copy_file_range(reading.fileno(), writing.fileno(), size)):
            size -= copied
    except AttributeError:  # not Linux
        pass
    except OSError as error:
        if error.errno not in _COPY_REFUSED:
            raise
    if size:
        shutil.copyfileobj(reading, writing)


def _sync(path: str) -> None:
    """Wait until a file's content is durable; skip empty files."""
    with Path(path).open("rb") as file:
        if os.fstat(file.fileno()).st_size:
            os.fsync(file.fileno())


def _check(path: str) -> str:
    """Return the folder of a path, which must be safe: checked at submission, and again where it matters."""
    parts = path.split("/")
    if not path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise PermanentError(f"the workspace contains an unsafe path: {path!r}")
    return "/".join(parts[:-1])


def _touch(mark: Path) -> bool:
    """Mark something as used now; return False if it does not exist."""
    try:
        os.utime(mark)
    except FileNotFoundError:
        return False
    return True
