"""Open folders one by one on the way down, never through a link, and access files in them only by name.

On all systems but Windows every step uses the descriptor of the folder above, so that nothing on the way can become a
link between check and use; on Windows each step is checked first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

_BY_DESCRIPTOR: Final = {os.open, os.mkdir, os.rename, os.unlink, os.stat} <= os.supports_dir_fd
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
_FOLDER: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_FILE: Final = (
    getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | _NO_LINK
)


class Blocked(OSError):
    """A link, or a file instead of a folder, is on the way; the text names it."""


class Folder:
    """An open folder; created by `opened`."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path = path
        self._descriptor = descriptor

    def status(self, name: str) -> os.stat_result | None:
        """Return the status of the file itself, without following a link; None if it does not exist."""
        try:
            return os.stat(self._at(name), dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """Return the names of all entries."""
        return os.listdir(self.path if self._descriptor is None else self._descriptor)  # noqa: PTH208 - a descriptor

    def read(self, name: str, most: int = 1 << 20) -> bytes:
        """Return the beginning of a regular file; b"" for anything else."""
        status = self.status(name)
        if status is None or not stat.S_ISREG(status.st_mode):
            return b""
        with os.fdopen(os.open(self._at(name), os.O_RDONLY | _FILE, dir_fd=self._descriptor), "rb") as file:
            return file.read(most)

    def write_new(self, name: str, content: bytes) -> None:
        """Make a file. Raises FileExistsError."""
        with self.create(name) as file:
            file.write(content)

    def create(self, name: str) -> IO[bytes]:
        """Open a new file for writing and reading. Raises FileExistsError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE
        return os.fdopen(os.open(self._at(name), flags, 0o600, dir_fd=self._descriptor), "r+b")

    def open_regular(self, name: str, *, to_write: bool = False) -> IO[bytes] | None:
        """Open an existing regular file; return None for anything else."""
        status = self.status(name)
        if status is None or not stat.S_ISREG(status.st_mode):
            return None
        flags = (os.O_RDWR if to_write else os.O_RDONLY) | _FILE
        try:
            file = os.fdopen(
                os.open(self._at(name), flags, dir_fd=self._descriptor), "r+b" if to_write else "rb"
            )
        except OSError:
            return None
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            return None
        return file

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._at(name), dir_fd=self._descriptor)

    def move(self, name: str, new: str) -> None:
        """Rename a file in this folder, replacing an existing file or link."""
        if self._descriptor is None:
            (self.path / name).replace(self.path / new)
        else:
            os.rename(name, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def set_mode(self, name: str, mode: int) -> None:
        """Set the permissions of a regular file."""
        file = self.open_regular(name)
        if file is not None:
            with file:
                if hasattr(os, "fchmod"):
                    os.fchmod(file.fileno(), mode)
                else:
                    (self.path / name).chmod(mode)

    def reached(self, name: str) -> Path:
        """Return a path for functions that need one; on Linux it goes through this open folder."""
        through = Path(f"/proc/self/fd/{self._descriptor}")
        return (through if self._descriptor is not None and through.exists() else self.path) / name

    def _at(self, name: str) -> str:
        return name if self._descriptor is not None else str(self.path / name)


@contextlib.contextmanager
def opened(base: Path, parts: Sequence[str]) -> Iterator[Folder]:
    """Open the folder at `parts` below `base`, and make missing ones. Raises `Blocked`, OSError.

    Links in `base` itself are followed, because the developer chose it.
    """
    base.mkdir(parents=True, exist_ok=True)
    if not _BY_DESCRIPTOR:
        yield Folder(_checked_folder(base, parts), None)
        return
    here = base
    descriptor = os.open(base, _FOLDER)
    try:
        for part in parts:
            here = here / part
            below = _open_below(descriptor, part, here)
            os.close(descriptor)
            descriptor = below
        yield Folder(here, descriptor)
    finally:
        os.close(descriptor)


def _open_below(descriptor: int, name: str, shown: Path) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=descriptor)
    try:
        return os.open(name, _FOLDER | _NO_LINK, dir_fd=descriptor)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
            raise
        is_link = stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode)
        raise Blocked(_words(shown, is_link=is_link)) from error


def _checked_folder(base: Path, parts: Sequence[str]) -> Path:
    here = base
    for part in parts:
        here = here / part
        with contextlib.suppress(FileExistsError):
            here.mkdir()
        mode = here.lstat().st_mode
        if not stat.S_ISDIR(mode):
            raise Blocked(_words(here, is_link=stat.S_ISLNK(mode)))
    return here


def _words(path: Path, *, is_link: bool) -> str:
    return f"{path} is {'a link' if is_link else 'not a folder'}"
