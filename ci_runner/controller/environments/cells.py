"""Cells: a private folder per build, which no other container ever sees; and the package caches that builds borrow.

`builds/<id>/` is the runner's (0700). The build's container sees from it `store` (writable, at `/ci/store`), `spool`,
and `upper` and `work` through an overlay; it can change their contents, never these folders themselves. The scope's
package cache is moved into `store` before the container starts, so that uv can make hard links from it, and back once
the container is gone. A scope has one cache per purpose, and one more for each build that finds none free.

`origin` in a cell names the cache's place, so that a controller that finds a crashed one's cell can return the cache.
A container's files are never read before the caller confirms that the container is gone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ci_runner import failpoints
from ci_runner.storage.safe_fs import Trash, Walk, identity, is_folder, move, open_up, opened_folder

_log = logging.getLogger(__name__)

_MADE = failpoints.register("controller.cell.made", "a build's cell is made, without a package cache")
_LENT = failpoints.register("controller.cell.lent", "a package cache is in a build's cell")
_RETURNED = failpoints.register("controller.cell.returned", "a package cache is back, the cell still there")

#: Folders of a cell that belong to its container's user.
_PARTS: Final = ("store", "upper", "work", "spool")
#: Entries of a package cache whose owner is looked at; uv's has some ten.
_FIRST_ENTRIES: Final = 1000
#: Package caches of one scope and purpose; further concurrent builds get one that is thrown away.
_MOST_CACHES: Final = 16


@dataclass(frozen=True)
class CachePlace:
    """The package cache that a build borrows."""

    scope: str
    #: Builds of different purposes run at the same time and share no cache.
    purpose: str


@dataclass(frozen=True)
class Cell:
    """The folder of one build."""

    folder: Path
    #: User id of its container; None: the runner's.
    owner: int | None
    cache: CachePlace | None

    @property
    def name(self) -> str:
        """Return the last part of the container's name."""
        return self.folder.name

    def path(self, part: str) -> Path:
        """Return the path of `store`, `upper`, `work` or `spool`, as mounted."""
        return self.folder / part

    @contextlib.contextmanager
    def opened(self, *names: str) -> Iterator[int]:
        """Open a folder in the cell without following a link; yield its descriptor."""
        with opened_folder(self.folder, *names) as folder:
            yield folder

    def known(self) -> dict[Path, tuple[int, int]]:
        """Return device and inode of the mounted folders."""
        result = {}
        for part in _PARTS:
            with self.opened(part) as folder:
                result[self.path(part)] = identity(folder)
        return result


class Cells:
    """The cells and package caches of one data directory. Thread-safe."""

    def __init__(self, data_dir: Path, trash: Trash) -> None:
        """Set up the object without making a folder."""
        self._root = data_dir / "builds"
        self._environments = data_dir / "environments"
        self._trash = trash
        self._lock = threading.Lock()

    # -- for builds
    def open(self, name: str, owner: int | None, cache: CachePlace | None) -> Cell:
        """Make a cell. `owner`: the uid of its container; None: the runner's."""
        cell = Cell(self._root / name, owner, cache)
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        cell.folder.mkdir(mode=0o700)
        for part in _PARTS:
            make_folder(cell.path(part), owner)
        failpoints.hit(_MADE)
        if cache is not None:
            origin = {"scope": cache.scope, "purpose": cache.purpose, "owner": owner}
            (cell.folder / "origin").write_text(json.dumps(origin))
            self._lend(cell, cache)
            failpoints.hit(_LENT)
        return cell

    def give_back(self, cell: Cell) -> None:
        """Move the package cache back to its scope. The container must be gone, so that nothing writes any more."""
        with contextlib.suppress(FileNotFoundError), cell.opened() as folder:
            for part in _PARTS:  # the container's user may have closed its own folders
                open_up(folder, part)
        if cell.cache is None:
            return
        with self._lock, contextlib.suppress(FileNotFoundError), cell.opened("store") as store:
            if _is_cache(store, "cache", cell.owner):
                open_up(store, "cache")
                self._shelve(store, cell.cache)
        failpoints.hit(_RETURNED)

    def throw_away(self, cell: Cell) -> None:
        """Remove a cell. The container must be gone, and the needed files taken out."""
        with contextlib.suppress(FileNotFoundError):
            self._trash.remove(cell.folder)

    # -- after a crash
    def found(self) -> set[str]:
        """Return the names of the existing cells."""
        return {path.name for path in self._root.iterdir()} if self._root.is_dir() else set()

    def reclaim(self, name: str) -> None:
        """Clean up after a build that did not end properly; its container must be gone."""
        cell = Cell(self._root / name, None, None)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            raw = json.loads((cell.folder / "origin").read_text())
            cell = Cell(cell.folder, raw["owner"], CachePlace(str(raw["scope"]), str(raw["purpose"])))
        _log.info("build %s ended with its controller: returning its package cache", name)
        self.give_back(cell)
        self.throw_away(cell)

    def discard_old_stores(self) -> None:
        """Remove the folders that earlier versions made writable for containers: `environments/<scope>/store`."""
        for store in self._environments.glob("*/store"):
            _log.info("removing %s, which is no longer used", store)
            with opened_folder(store.parent) as scope:
                self._trash.hide(scope, store.name)

    # -- caches
    def idle_caches(self) -> list[tuple[float, Path]]:
        """Return (time of last use, folder) of each package cache that no build has borrowed, oldest use first."""
        found = []
        for path in self._environments.glob("*/cache/*"):
            with contextlib.suppress(FileNotFoundError):
                found.append((path.lstat().st_mtime, path))
        return sorted(found)

    def drop_cache(self, folder: Path) -> None:
        """Remove a package cache, unless a build has borrowed it meanwhile."""
        with self._lock, contextlib.suppress(FileNotFoundError), opened_folder(folder.parent) as parent:
            self._trash.hide(parent, folder.name)

    def _lend(self, cell: Cell, place: CachePlace) -> None:
        with self._lock, cell.opened("store") as store:
            shelf = self._shelf(place)
            with opened_folder(shelf) as folder:
                for name in _numbered(os.listdir(folder), place.purpose):  # noqa: PTH208  # a descriptor
                    if _is_cache(folder, name, cell.owner):
                        move(folder, name, store, "cache")
                        return
                    self._trash.hide(folder, name)
        make_folder(cell.path("store") / "cache", cell.owner)  # nothing runs in it yet

    def _shelve(self, store: int, place: CachePlace) -> None:
        with opened_folder(self._shelf(place)) as shelf:
            taken = set(os.listdir(shelf))  # noqa: PTH208  # a descriptor
            names = (f"{place.purpose}.{number}" for number in range(_MOST_CACHES))
            free = next((name for name in names if name not in taken), None)
            if free is not None:
                with opened_folder(store, "cache") as cache:
                    os.utime(cache)
                move(store, "cache", shelf, free)

    def _shelf(self, place: CachePlace) -> Path:
        folder = self._environments / place.scope / "cache"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder


def make_folder(path: Path, owner: int | None) -> None:
    """Make a folder for a container's user; nothing may run in it yet."""
    path.mkdir(mode=0o755)
    if owner is not None:
        os.chown(path, owner, owner, follow_symlinks=False)


def _is_cache(parent: int, name: str, owner: int | None) -> bool:
    """Return whether `name` is a folder of the uid `owner` (None: the runner's), and so is what lies directly in it.

    One that was written under another uid (with another engine, by a runner of another user) is of no use: programs of
    `owner` could not write to it.
    """
    if not is_folder(parent, name):
        return False
    uid = os.geteuid() if owner is None else owner
    if os.stat(name, dir_fd=parent, follow_symlinks=False).st_uid != uid:
        return False
    open_up(parent, name)
    with opened_folder(parent, name) as cache:
        return all(entry.status.st_uid == uid for entry in Walk(cache, _FIRST_ENTRIES, depth=1))


def _numbered(names: list[str], purpose: str) -> list[str]:
    """Return the names of a purpose, by number."""
    numbers = [
        int(match[1])
        for name in names
        if (match := re.fullmatch(rf"{re.escape(purpose)}\.(\d{{1,4}})", name))
    ]
    return [f"{purpose}.{number}" for number in sorted(numbers)]
