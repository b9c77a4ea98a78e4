"""File operations on folders that hostile code wrote: by descriptors, without following links, without recursion.

A container can create anything: links, folders thousands of levels deep, paths longer than the system accepts,
millions of entries, folders closed to their owner. The functions of this module open one folder at a time with
`O_NOFOLLOW`, use a constant number of descriptors and no recursion, and can be bounded.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

#: Flags that open a folder, or a plain file, and nothing else in its place.
FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Folder names that a walk remembers per folder; if there are more, it reads the folder several times.
MOST_NAMES: Final = 10_000
#: Entries that one removal handles before it leaves the rest for later: some seconds of work.
MOST_AT_ONCE: Final = 100_000
FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextlib.contextmanager
def opened_folder(root: Path | int, *names: str) -> Iterator[int]:
    """Open the folder `names` below `root`, one name at a time; yield its descriptor.

    `root` is trusted: a path that only the runner can change, or a descriptor. Raises OSError (`ELOOP` or `ENOTDIR`
    for links and files) and ValueError for a name that is not a plain one.
    """
    current = os.open(root, FOLDER) if isinstance(root, Path) else os.open(".", FOLDER, dir_fd=root)
    try:
        for name in names:
            following = os.open(_plain(name), FOLDER, dir_fd=current)
            os.close(current)
            current = following
        yield current
    finally:
        os.close(current)


def is_folder(parent: int, name: str) -> bool:
    """Return whether `name` in the folder `parent` is a folder itself, not a link to one."""
    try:
        return stat.S_ISDIR(os.stat(_plain(name), dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def read_plain_file(parent: int, name: str, limit: int, offset: int = 0) -> bytes | None:
    """Return up to `limit` bytes of the file `name` in the folder `parent`; None unless it is a plain file."""
    try:
        descriptor = os.open(_plain(name), FILE, dir_fd=parent)
    except OSError:
        return None
    try:
        return os.pread(descriptor, limit, offset) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    finally:
        os.close(descriptor)


def _plain(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a plain file name")
    return name


# -- walking


@dataclass(frozen=True)
class Entry:
    """An entry that a walk found."""

    #: Relative to the walk's top, parts joined by slashes. May be longer than system calls accept.
    path: str
    status: os.stat_result
    #: The folder that holds it, valid until the walk continues; `name` is its name in that folder.
    folder: int
    name: str

    @property
    def is_folder(self) -> bool:
        """Return whether the walk will visit it."""
        return stat.S_ISDIR(self.status.st_mode)


@dataclass
class Walk:
    """All entries below a folder, folders before their contents; iterate once.

    At most one descriptor is open besides the top's, at any depth. A folder that is moved or removed meanwhile is
    left out, with its contents.
    """

    top: int
    #: Maximum entries; the walk ends after them.
    limit: int = sys.maxsize
    #: Maximum levels of folders; deeper ones are left out.
    depth: int = sys.maxsize
    #: Decides, once a folder was yielded, whether it is visited; in a huge folder it may be asked again.
    enters: Callable[[Entry], bool] = lambda entry: True
    #: Whether everything was visited; known at the end.
    complete: bool = field(default=True, init=False)
    seen: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[Entry]:
        here = os.open(".", FOLDER, dir_fd=self.top)
        levels: list[_Level] = []
        try:
            levels.append(_Level("", "", identity(here)))
            yield from self._entries(here, levels)
            while levels and self.seen < self.limit:
                if levels[-1].folders:
                    name = levels[-1].folders.pop()
                    try:
                        inner = os.open(name, FOLDER, dir_fd=here)
                    except OSError:
                        self.complete = False
                        continue
                    os.close(here)
                    here = inner
                    levels.append(_Level(name, f"{levels[-1].prefix}{name}/", identity(here)))
                    yield from self._entries(here, levels)
                    continue
                if levels[-1].is_cut:
                    self._read_on(here, levels[-1])
                    continue
                levels.pop()
                if levels:
                    here = self._climb(here, levels)
        finally:
            os.close(here)

    def _entries(self, here: int, levels: list[_Level]) -> Iterator[Entry]:
        level = levels[-1]
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if self.seen >= self.limit:
                        self.complete = False
                        return
                    self.seen += 1
                    try:
                        status = os.stat(entry.name, dir_fd=here, follow_symlinks=False)
                    except OSError:
                        continue
                    found = Entry(level.prefix + entry.name, status, here, entry.name)
                    yield found
                    if found.is_folder and self.enters(found):
                        if len(levels) < self.depth:
                            level.add(entry.name)
                        else:
                            self.complete = False
        except OSError:
            self.complete = False
        level.sort()

    def _read_on(self, here: int, level: _Level) -> None:
        """Find the folders that come after the visited ones."""
        after, level.is_cut = level.last, False
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name > after and entry.is_dir(follow_symlinks=False):
                        status = os.stat(entry.name, dir_fd=here, follow_symlinks=False)
                        if self.enters(Entry(level.prefix + entry.name, status, here, entry.name)):
                            level.add(entry.name)
        except OSError:
            self.complete = False
        level.sort()

    def _climb(self, here: int, levels: list[_Level]) -> int:
        """Return the parent folder, checked by its identity; search a moved one from the top."""
        try:
            above = os.open("..", FOLDER, dir_fd=here)
        except OSError:
            above = os.open(".", FOLDER, dir_fd=self.top)
        os.close(here)
        if identity(above) == levels[-1].identity:
            return above
        os.close(above)
        self.complete = False
        while len(levels) > 1:
            with (
                contextlib.suppress(OSError),
                opened_folder(self.top, *(level.name for level in levels[1:])) as found,
            ):
                if identity(found) == levels[-1].identity:
                    return os.dup(found)
            levels.pop()
        return os.open(".", FOLDER, dir_fd=self.top)


@dataclass
class _Level:
    """A folder that a walk is in."""

    name: str
    prefix: str
    identity: tuple[int, int]
    #: Its folders still to be visited, the next one last.
    folders: list[str] = field(default_factory=list)
    #: There are more, with names after `last`.
    is_cut: bool = False
    last: str = ""

    def add(self, name: str) -> None:
        """Remember a folder; of very many, the first ones by name."""
        self.folders.append(name)
        if len(self.folders) >= 2 * MOST_NAMES:
            self.sort()

    def sort(self) -> None:
        """Sort the folders, and drop those after the first `MOST_NAMES`."""
        self.folders.sort()
        if len(self.folders) > MOST_NAMES:
            del self.folders[MOST_NAMES:]
            self.is_cut = True
        self.last = self.folders[-1] if self.folders else self.last
        self.folders.reverse()


def identity(folder: int) -> tuple[int, int]:
    """Return device and inode of an open folder, by which it is recognised."""
    status = os.fstat(folder)
    return status.st_dev, status.st_ino


# -- removing


class Trash:
    """A folder for removals: files are hidden at once, then deleted entry by entry, in as many steps as needed.

    Each removed item is first moved into a separate folder below the trash, on the same file system, so that it is
    never seen half removed. Nested folders are moved up before they are emptied, so neither depth nor path length
    matters. The next `empty` removes what a crash or a limit left. Thread-safe.
    """

    def __init__(self, folder: Path) -> None:
        """Use `folder`, a path that only the runner can change; made when needed."""
        self._folder = folder

    def remove(self, path: Path, limit: int = MOST_AT_ONCE) -> None:
        """Remove `path`, a file, link or folder; do nothing if it is absent. Only the runner may change its parent.

        Of a huge folder, about `limit` entries are removed at once, and the rest is left for `empty`. Raises OSError
        if something cannot be removed; it is hidden all the same. If another thread is emptying the trash, that one
        removes it.
        """
        with opened_folder(path.parent) as parent:
            self.remove_at(parent, path.name, limit)

    def remove_at(self, parent: int, name: str, limit: int = MOST_AT_ONCE) -> None:
        """Remove `name` in the folder `parent`, as `remove` does."""
        bag = self.hide(parent, name)
        if bag is not None:
            with contextlib.suppress(FileNotFoundError, BlockingIOError):  # another thread empties it
                self._empty_bag(bag, limit)

    def hide(self, parent: int, name: str) -> str | None:
        """Move `name` out of the folder `parent` into the trash, quickly, for `empty` to delete.

        Return the name of its bag in the trash, or None if `name` is absent.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with opened_folder(self._folder) as trash:
            while True:
                bag = uuid.uuid4().hex
                os.mkdir(bag, 0o700, dir_fd=trash)
                try:
                    with opened_folder(trash, bag) as target:
                        move(parent, name, target, "0")
                        return bag
                except (
                    FileNotFoundError
                ):  # it is absent, or another thread removed the bag while it was empty
                    with contextlib.suppress(FileNotFoundError):
                        os.rmdir(bag, dir_fd=trash)
                    if not _exists(parent, name):
                        return None

    def empty(self, limit: int = sys.maxsize) -> bool:
        """Remove at most about `limit` entries of the trash; return whether nothing is left.

        An entry that cannot be removed does not stop the rest; the first such error is raised at the end.
        """
        try:
            with opened_folder(self._folder) as trash:
                bags = os.listdir(trash)  # noqa: PTH208  # a descriptor
        except FileNotFoundError:
            return True
        error: OSError | None = None
        is_busy = False
        for bag in bags:
            if limit <= 0:
                return False
            try:
                limit -= self._empty_bag(bag, limit)
            except FileNotFoundError:
                continue  # another thread was faster
            except BlockingIOError:
                is_busy = True  # another thread is working on it
            except OSError as problem:
                error = error or problem
        if error is not None:
            raise error
        return limit > 0 and not is_busy

    def _empty_bag(self, bag: str, limit: int) -> int:
        """Remove a bag's entries, and the bag once it is empty; return how many entries were removed.

        Raises BlockingIOError while another thread does that, and the first error of an entry that cannot be removed.
        """
        removed = 0
        failed: dict[str, OSError] = {}
        with opened_folder(self._folder) as trash:
            with opened_folder(trash, bag) as folder:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                while names := [name for name in _names(folder, 1000 + len(failed)) if name not in failed]:
                    for name in names:
                        try:
                            removed += _flatten(folder, name, limit - removed)
                        except FileNotFoundError:
                            continue
                        except OSError as error:
                            failed[name] = error
                        if removed >= limit:
                            return removed
            if failed:
                raise next(iter(failed.values()))
            _removed_empty(trash, bag)  # not removed if something was just added to it
        return removed + 1


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _names(folder: int, most: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry, _ in zip(entries, range(most), strict=False)]


def _flatten(bag: int, name: str, limit: int) -> int:
    """Remove one entry of a bag; move folders in it up into the bag. Return how many entries were handled."""
    if not is_folder(bag, name):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=bag)
        return 1
    handled = 0
    open_up(bag, name)
    with opened_folder(bag, name) as folder:
        while handled < limit and (inner := _names(folder, 1000)):
            for entry in inner:
                if is_folder(folder, entry):
                    if not _removed_empty(folder, entry):
                        move(folder, entry, bag, uuid.uuid4().hex)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry, dir_fd=folder)
                handled += 1
                if handled >= limit:
                    return handled
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=bag)  # fails while a process still writes to it: a later pass continues
    return handled + 1


def _removed_empty(parent: int, name: str) -> bool:
    """Remove a folder if it is empty; the kernel's own one in an overlay's work folder is closed, but empty."""
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def move(parent: int, name: str, target: int, new: str) -> None:
    """Rename between open folders; open up a folder that its owner closed first."""
    _plain(name)
    try:
        os.rename(name, _plain(new), src_dir_fd=parent, dst_dir_fd=target)
    except PermissionError:
        open_up(parent, name)
        os.rename(name, new, src_dir_fd=parent, dst_dir_fd=target)


def open_up(parent: int, name: str) -> None:
    """Let the owner read and write a folder, following nothing; errors are left to the caller that opens it."""
    with contextlib.suppress(OSError):
        if os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode & 0o700 != 0o700:
            set_folder_mode(parent, name, 0o700)


def set_folder_mode(parent: int, name: str, mode: int) -> None:
    """Set the mode of a folder, never of anything else that has replaced it."""
    if sys.platform != "linux":
        os.chmod(name, mode, dir_fd=parent, follow_symlinks=False)
        return
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{handle}", mode)  # noqa: PTH101  # names a descriptor
    finally:
        os.close(handle)
