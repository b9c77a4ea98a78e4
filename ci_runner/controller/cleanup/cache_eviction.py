"""Removal of the least recently used caches, counted by the bytes that are really freed.

Environments are hard links into their scope's package cache: an inode counts once. Data that only the package cache
still holds is removed if removing environments was not enough. Kept folders of projects and images with system packages
are cached data, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ci_runner.controller.cleanup.disk_watchdog import ENTRY
from ci_runner.controller.environments.cells import Cells
from ci_runner.controller.environments.system_packages import SystemPackages
from ci_runner.controller.environments.workspaces import Workspaces
from ci_runner.errors import RunnerError
from ci_runner.storage.safe_fs import Trash, Walk, opened_folder

_log = logging.getLogger(__name__)

#: Seconds between two measurements of the caches.
INTERVAL: Final = 600.0
#: Seconds without use after which an image with packages is removed in any case: it keeps its base image, which may be
#: outdated, on the disk.
_IMAGE_LIFE: Final = 30 * 86400.0
#: Maximum files and folders of one cached item; a larger package cache is dropped.
_MOST_ENTRIES: Final = 2_000_000


@dataclass(frozen=True)
class _Candidate:
    used: float
    folder: Path
    #: Its name in `keep`.
    key: str
    #: Bytes of an image, whose `folder` is only the record; None: not an image.
    image_size: int | None = None


class Evictor:
    """Evicts from the caches of one data directory."""

    def __init__(
        self,
        data_dir: Path,
        workspaces: Workspaces,
        cells: Cells,
        images: SystemPackages,
        trash: Trash,
        size: int,
        fresh: float,
        interval: float = INTERVAL,
    ) -> None:
        """Set up the evictor.

        `size`: maximum bytes. `fresh`: seconds that an item stays after its last use: a preparation may be using it.
        """
        self._root = data_dir / "environments"
        self._trees = data_dir / "trees"
        self._workspaces = workspaces
        self._cells = cells
        self._images = images
        self._trash = trash
        self._size = size
        self._fresh = fresh
        self._interval = interval
        self._lock = threading.Lock()
        self._next = 0.0

    def evict(self, keep: frozenset[str]) -> None:
        """Reduce the caches to their size, but keep fresh items and those in `keep` (keys, also joined ones).

        An item that cannot be removed does not stop the rest.
        """
        with self._lock:
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + self._interval
            protected = {part for key in keep for part in key.split(".")}
            limit = time.time() - self._fresh
            self._remove_leftovers(limit)
            sizes = _Sizes()
            candidates = sorted(self._candidates(), key=lambda item: item.used)
            for candidate in candidates:
                sizes.add(candidate.folder)
                sizes.total += candidate.image_size or 0
            caches = self._cells.idle_caches()
            for used, cache in caches:
                if not sizes.add(cache) and used < limit:
                    self._drop(cache, sizes)
            unused = time.time() - _IMAGE_LIFE
            for candidate in candidates:
                is_old = candidate.image_size is not None and candidate.used < unused
                if (
                    (sizes.total > self._size or is_old)
                    and candidate.key not in protected
                    and candidate.used < limit
                ):
                    sizes.drop(candidate.folder)
                    sizes.total -= candidate.image_size or 0
                    self._remove(candidate)
            for used, cache in caches:
                if sizes.total > self._size and used < limit:
                    self._drop(cache, sizes)

    def _candidates(self) -> Iterator[_Candidate]:
        for mark in [*self._root.glob("*/envs/*.ok"), *self._root.glob("*/layers/*.ok")]:
            yield _Candidate(mark.lstat().st_mtime, mark.with_suffix(""), mark.stem)
        for mark in self._root.glob("*/kept/*/*/info.json"):
            yield _Candidate(mark.lstat().st_mtime, mark.parent, mark.parent.name)
        for used, record, size in self._images.images():
            yield _Candidate(used, record, record.stem, size)
        for used, digest in self._workspaces.unused():
            yield _Candidate(used, self._trees / digest, digest)

    def _remove(self, candidate: _Candidate) -> None:
        """Remove the marker first, so that a half-removed item is never used."""
        try:
            if candidate.folder.parent == self._trees:
                self._workspaces.remove(candidate.key)
                return
            if candidate.image_size is not None:
                self._images.remove(candidate.folder)
                return
            for mark in ("ok", "bytecode"):
                candidate.folder.with_name(f"{candidate.key}.{mark}").unlink(missing_ok=True)
            self._trash.remove(candidate.folder)
        except (OSError, RunnerError) as error:
            _log.warning("%s cannot be removed yet: %s", candidate.folder, error)

    def _drop(self, cache: Path, sizes: _Sizes) -> None:
        """Remove a package cache without recent builds."""
        sizes.drop(cache)
        try:
            self._cells.drop_cache(cache)
        except OSError as error:
            _log.warning("%s cannot be removed yet: %s", cache, error)

    def _remove_leftovers(self, limit: float) -> None:
        """Remove half-made folders of processes that died; no container ever saw them."""
        found = [path for name in (".tmp-*", ".del-*") for path in self._trees.glob(name)]
        found += [path for place in ("locks", "kept") for path in self._root.glob(f"*/{place}/.tmp-*")]
        for path in found:
            try:
                if path.lstat().st_mtime < limit:
                    self._trash.remove(path)
            except OSError as error:
                _log.warning("%s cannot be removed yet: %s", path, error)


class _Sizes:
    """Bytes of folders, counting each inode once; dropping a folder frees what no other folder holds."""

    def __init__(self) -> None:
        self.total = 0
        self._held: dict[tuple[int, int], int] = {}

    def add(self, folder: Path) -> bool:
        """Count a folder; return whether it was read completely."""
        walk = _Contents(folder)
        for inode, size, links in walk:
            before = self._held.get(inode, 0)
            self._held[inode] = before + 1
            if not before and (links == 1 or not _is_tree(folder)):
                self.total += size
        return walk.is_complete

    def drop(self, folder: Path) -> None:
        """Count a folder as removed."""
        for inode, size, links in _Contents(folder):
            left = self._held[inode] = self._held.get(inode, 1) - 1
            if not left and (links == 1 or not _is_tree(folder)):
                self.total -= size


def _is_tree(folder: Path) -> bool:
    """Return whether a folder is a tree; trees are hard links to blobs, which stay."""
    return folder.parent.name == "trees"


class _Contents:
    """The entries of a folder as (inode, bytes that count, links); links are not followed.

    Without entries if the folder is gone; incomplete above `_MOST_ENTRIES`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.is_complete = True

    def __iter__(self) -> Iterator[tuple[tuple[int, int], int, int]]:
        try:
            with opened_folder(self._folder) as top:
                walk = Walk(top, limit=_MOST_ENTRIES)
                for entry in walk:
                    found = entry.status
                    links = 1 if entry.is_folder else found.st_nlink
                    yield (found.st_dev, found.st_ino), max(ENTRY, found.st_blocks * 512), links
                self.is_complete = walk.seen < _MOST_ENTRIES
        except OSError:
            return
