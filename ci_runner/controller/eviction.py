"""Removes the least recently used of what is cached, by the bytes that removing really frees.

Environments are hard links into their scope's package cache: an inode counts once, and what only the package cache
still holds goes when removing environments was not enough.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ci_runner.controller.builds import remove_folder
from ci_runner.controller.workspaces import Workspaces

#: Seconds between two looks at how much there is.
INTERVAL: Final = 600.0


@dataclass(frozen=True)
class _Candidate:
    used: float
    folder: Path
    #: What `keep` may name it by.
    key: str


class Evictor:
    """The caches of one data directory."""

    def __init__(
        self, data_dir: Path, workspaces: Workspaces, size: int, fresh: float, interval: float = INTERVAL
    ) -> None:
        """`size`: bytes kept. `fresh`: seconds for which what was used stays: a preparation may be using it."""
        self._root = data_dir / "environments"
        self._trees = data_dir / "trees"
        self._workspaces = workspaces
        self._size = size
        self._fresh = fresh
        self._interval = interval
        self._lock = threading.Lock()
        self._next = 0.0

    def evict(self, keep: frozenset[str]) -> None:
        """Bring the caches below their size, as far as `keep` (keys, joined ones too) and what is fresh allow."""
        with self._lock:
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + self._interval
            kept = {part for key in keep for part in key.split(".")}
            limit = time.time() - self._fresh
            self._remove_leftovers(limit)
            sizes = _Sizes()
            candidates = sorted(self._candidates(), key=lambda item: item.used)
            for candidate in candidates:
                sizes.add(candidate.folder)
            for cache in self._caches():
                sizes.add(cache)
            for candidate in candidates:
                if sizes.total <= self._size:
                    return
                if candidate.key not in kept and candidate.used < limit:
                    sizes.drop(candidate.folder)
                    self._remove(candidate)
            if sizes.total > self._size:
                self._drop_caches(limit)

    def _candidates(self) -> Iterator[_Candidate]:
        for mark in [*self._root.glob("*/envs/*.ok"), *self._root.glob("*/layers/*.ok")]:
            yield _Candidate(mark.stat().st_mtime, mark.with_suffix(""), mark.stem)
        for used, digest in self._workspaces.unused():
            yield _Candidate(used, self._trees / digest, digest)

    def _caches(self) -> list[Path]:
        return list(self._root.glob("*/store/cache"))

    def _remove(self, candidate: _Candidate) -> None:
        """The marker first: what is half removed is never used."""
        if candidate.folder.parent == self._trees:
            self._workspaces.remove(candidate.key)
            return
        candidate.folder.with_name(f"{candidate.key}.ok").unlink(missing_ok=True)
        doomed = candidate.folder.with_name(f".del-{uuid.uuid4().hex}")
        candidate.folder.rename(doomed)
        remove_folder(doomed)

    def _drop_caches(self, limit: float) -> None:
        """Empty the package caches of scopes in which nothing was built lately."""
        for cache in self._caches():
            store = cache.parent
            if not any((store / "new").iterdir()) and (store / "new").stat().st_mtime < limit:
                for entry in cache.iterdir():
                    remove_folder(entry) if entry.is_dir() else entry.unlink()

    def _remove_leftovers(self, limit: float) -> None:
        """What processes that died left half-made."""
        places = [self._trees, *self._root.glob("*/envs"), *self._root.glob("*/layers")]
        found = [path for place in places for path in place.glob(".[td][me][pl]-*")]
        found += self._root.glob("*/store/new/*")
        for path in found:
            if path.lstat().st_mtime < limit and path.is_dir():
                remove_folder(path)
        for path in self._root.glob("*/locks/.tmp-*"):
            if path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)


class _Sizes:
    """Bytes of folders, each inode once; dropping a folder frees what no other folder holds."""

    def __init__(self) -> None:
        self.total = 0
        self._held: dict[tuple[int, int], int] = {}

    def add(self, folder: Path) -> None:
        """Count a folder."""
        for inode, size, links in _walk(folder):
            before = self._held.get(inode, 0)
            self._held[inode] = before + 1
            if not before and (links == 1 or not _is_tree(folder)):
                self.total += size

    def drop(self, folder: Path) -> None:
        """It is going to be removed."""
        for inode, size, links in _walk(folder):
            left = self._held[inode] = self._held.get(inode, 1) - 1
            if not left and (links == 1 or not _is_tree(folder)):
                self.total -= size


def _is_tree(folder: Path) -> bool:
    """Trees are hard links to blobs, which stay."""
    return folder.parent.name == "trees"


def _walk(folder: Path) -> Iterator[tuple[tuple[int, int], int, int]]:
    """(inode, bytes on disk, links) of all that is in a folder, never following a link."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        is_dir = entry.is_dir(follow_symlinks=False)
        yield (found.st_dev, found.st_ino), found.st_blocks * 512, 1 if is_dir else found.st_nlink
        if is_dir:
            yield from _walk(Path(entry.path))
