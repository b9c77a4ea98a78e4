"""Files being written, in folders with locks that show whether their writers are alive.

A killed process releases its locks, so any process can remove its files at once, without asking for their age or
origin.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import BinaryIO, Final

#: Seconds after which a file outside of any writer's folder is not about to lose its name (see `tempfile`).
_NAMELESS_SOON: Final = 60.0


class Scratch:
    """A folder below `uploads`, made when first needed and locked as long as its writer lives."""

    def __init__(self, uploads: Path) -> None:
        self._uploads = uploads
        self._folder: Path | None = None
        self._lock = -1

    def file(self) -> tuple[BinaryIO, Path]:
        """Return a new empty file; the caller closes it."""
        if self._folder is None:
            self._folder, self._lock = self._made()
        descriptor, name = tempfile.mkstemp(dir=self._folder)
        return os.fdopen(descriptor, "wb"), Path(name)

    def close(self) -> None:
        """Remove the folder with all its contents."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)
            self._folder = None

    def _made(self) -> tuple[Path, int]:
        while True:
            folder = Path(tempfile.mkdtemp(dir=self._uploads))
            try:
                lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue  # removed before it could be locked
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def remove_abandoned(path: Path) -> bool:
    """Remove a writer's folder (or a file outside of any) unless the writer lives; return whether it was removed."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            shutil.rmtree(path)
            return True
        if path.lstat().st_mtime > time.time() - _NAMELESS_SOON:
            return False
        path.unlink()
        return True
    except OSError:  # locked, or gone meanwhile
        return False
    finally:
        os.close(lock)
