"""Search for the artifacts in a container's files: a walk through hostile folders.

All of it was made by untrusted code, which may still run while `find` only looks. So folders are opened one by one,
never through a link; only regular files count; names must be valid in a workspace; the number of visited and returned
files is bounded. Each kind of omission is reported, with one example.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ci_runner.model.path_checks import MAX_DEPTH, path_problem, shown
from ci_runner.storage.safe_fs import Entry, Walk
from pytest_remote_ci.wire.changes import is_in_repository
from pytest_remote_ci.wire.globs import Globs, Step

#: Maximum files and folders to visit; the walk ends there.
MAX_ENTRIES: Final = 200_000

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: Marks an overlay's file of which only the mode was changed: it has a size, but no content.
_ONLY_CHANGED: Final = "trusted.overlay.metacopy"
#: Marks an overlay's folder that was renamed: what the job did not change in it is in the lower layers. Like the one
#: above, the kernel sets it, and only root sees it.
_RENAMED: Final = "trusted.overlay.redirect"
_RENAMED_WORDS: Final = (
    "is a folder of the project under another name: files in it that the job did not change"
)


@dataclass(frozen=True)
class Leftover:
    """A file that matches a pattern."""

    path: str
    size: int
    executable: bool


class Omissions:
    """Omitted files by reason, in words for the job's user."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, path: str) -> None:
        """Record that `path` is not stored because it `reason`."""
        count, first = self._found.get(reason, (0, path))
        self._found[reason] = count + 1, first

    def lines(self) -> list[str]:
        """Return one line per reason."""
        return [
            f"not stored: {shown(first)} {reason}" + (f" ({count - 1} more like it)" if count > 1 else "")
            for reason, (count, first) in self._found.items()
        ]


@dataclass
class Found:
    """The result of a walk."""

    files: list[Leftover] = field(default_factory=list)
    omissions: Omissions = field(default_factory=Omissions)
    #: Indexes of the patterns that matched something.
    matched: set[int] = field(default_factory=set)
    #: Number of visited files and folders; each counts several times if there are very many patterns.
    entries: int = 0


def find(folder: Path, globs: Globs) -> Found:
    """Return the files below `folder` that `globs` match, sorted by name; none if the folder is gone."""
    found = Found()
    try:
        top = os.open(folder, _FOLDER)
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            found.omissions.add(f"cannot be read ({error.strerror})", "the project")
        return found
    try:
        _scan_folder(top, globs, found)
    finally:
        os.close(top)
    found.files.sort(key=lambda file: file.path.split("/"))
    return found


def _scan_folder(top: int, globs: Globs, found: Found) -> None:
    #: Folders that are, or may be, visited.
    steps: dict[str, Step] = {"": globs.root()}
    for entry in Walk(top, enters=lambda entry: entry.path in steps and _is_entered(entry, found)):
        above, _, name = entry.path.rpartition("/")
        here = steps[above]
        found.entries += here.cost
        if found.entries > MAX_ENTRIES:
            words = f"and more: only {MAX_ENTRIES} files and folders are looked at"
            found.omissions.add(words, f"{above}/" if above else ".")
            return
        step = here.down(name)
        if step is None:
            continue
        if entry.is_folder:
            steps[entry.path] = step
        elif step.hits and not _is_deletion(entry.status):
            _add_file(entry.path, entry.status, step, found)


def _is_entered(entry: Entry, found: Found) -> bool:
    """Return whether a folder is visited; if not, say why."""
    if entry.path.count("/") + 1 >= MAX_DEPTH:
        found.omissions.add(f"is more than {MAX_DEPTH} folders deep", entry.path)
        return False
    try:
        handle = os.open(entry.name, _FOLDER, dir_fd=entry.folder)
    except OSError as error:
        found.omissions.add(f"cannot be read ({error.strerror})", entry.path)
        return False
    try:
        if _has_attribute(handle, _RENAMED):
            found.omissions.add(_RENAMED_WORDS, entry.path)
    finally:
        os.close(handle)
    return True


def _add_file(path: str, status: os.stat_result, step: Step, found: Found) -> None:
    found.matched |= step.hits
    problem = path_problem(path)
    if stat.S_ISLNK(status.st_mode):
        problem = "is a link"
    elif not stat.S_ISREG(status.st_mode):
        problem = "is not a regular file"
    elif is_in_repository(path):
        problem = "is in a .git folder"
    if problem is not None:
        found.omissions.add(problem, path)
    else:
        found.files.append(Leftover(path, status.st_size, bool(status.st_mode & 0o100)))


def _is_deletion(status: os.stat_result) -> bool:
    """Return whether this is an overlay's mark of a deleted file."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


@contextlib.contextmanager
def opened(folder: Path, path: str) -> Iterator[int | None]:
    """Open the regular file `path` below `folder` without following a link; yield its descriptor.

    Yield None if none of its content is the job's. Raises OSError if it cannot be opened, or was replaced meanwhile.
    """
    *parents, name = path.split("/")
    with contextlib.ExitStack() as stack:
        place = os.open(folder, _FOLDER)
        stack.callback(os.close, place)
        for parent in parents:
            place = os.open(parent, _FOLDER, dir_fd=place)
            stack.callback(os.close, place)
        handle = os.open(name, _FILE, dir_fd=place)
        stack.callback(os.close, handle)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(0, "it is not a regular file")
        yield None if _has_attribute(handle, _ONLY_CHANGED) else handle


def _has_attribute(handle: int, name: str) -> bool:
    with contextlib.suppress(OSError, AttributeError):
        os.getxattr(handle, name)
        return True
    return False
