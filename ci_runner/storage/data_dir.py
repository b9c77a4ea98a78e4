"""The data directory: private, refused if others could write to it, and identified by an install id.

All private files of the runner are below one folder with mode 0700; other modules define its contents
(docs/internals/index.md lists them).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from ci_runner.errors import RunnerError, SettingsError


class Busy(RunnerError):
    """Another process holds the lock; the message names it."""


def problem(folder: Path) -> str | None:
    """Return why the existing `folder` must not be used, in one line with a remedy; None if it may."""
    try:
        info = folder.stat()
    except OSError as error:
        return f"{folder}: {error.strerror}"
    if not stat.S_ISDIR(info.st_mode):
        return f"{folder}: not a folder; name another data directory"
    if info.st_uid != os.geteuid():
        return f"{folder}: belongs to user {info.st_uid}, not to the one who runs this ({os.geteuid()})"
    if info.st_mode & 0o022:
        return f"{folder}: others may write to it (mode {info.st_mode & 0o777:o}): chmod 700 {folder}"
    return None


def prepare(folder: Path) -> None:
    """Make the folder with mode 0700, or check an existing one; raises `SettingsError`.

    A folder that others may only read is closed to them. One that others may write to is refused, because its
    contents may be theirs already.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError as error:
        raise SettingsError(f"{folder}: not a folder; name another data directory") from error
    except OSError as error:
        raise SettingsError(f"{folder}: cannot be created ({error.strerror})") from error
    if text := problem(folder):
        raise SettingsError(text)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def install_id(folder: Path) -> str:
    """Return 12 hexadecimal characters that name this runner forever; the first caller makes them."""
    path = folder / "install-id"
    for _ in range(2):
        with contextlib.suppress(FileNotFoundError):
            text = path.read_text().strip()
            if len(text) != 12 or not set(text) <= set("0123456789abcdef"):
                raise SettingsError(f"{path}: damaged; it must have 12 hexadecimal characters")
            return text
        with write_beside(path, secrets.token_hex(6) + "\n") as made, contextlib.suppress(FileExistsError):
            os.link(made, path)  # fails, unlike a rename, if another process was first
    return path.read_text().strip()


@contextlib.contextmanager
def write_beside(path: Path, text: str) -> Iterator[Path]:
    """Yield a complete, private (0600) file next to `path`, to link or move into place; remove it afterwards."""
    made = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        yield made
    finally:
        made.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock on `path` (its content names this process); raise `Busy` at once if it is taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 100, 0).decode(errors="replace").strip() or "unknown"
            raise Busy(f"{what} (process {holder}) already uses {path.parent}") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
