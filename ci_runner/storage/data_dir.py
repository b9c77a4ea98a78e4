"""The data directory: made private, refused where others could write, and named by an install id.

Everything that the runner must keep from others lies below one folder with mode 0700; contents of it are other
modules' business (docs/internals/index.md lists them).
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
    """Another process holds the lock; the text says which."""


def problem(folder: Path) -> str | None:
    """Why `folder` (which exists) must not be used, as one line that says what to do; None when it may be."""
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
    """Make the folder with mode 0700, or check the one that is there; raises `SettingsError`.

    A folder that others may only read is closed to them; one that others may write to is refused, for what lies in it
    may be theirs already.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError as error:
        raise SettingsError(f"{folder}: not a folder; name another data directory") from error
    except OSError as error:
        raise SettingsError(f"{folder}: cannot be made ({error.strerror})") from error
    if text := problem(folder):
        raise SettingsError(text)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def install_id(folder: Path) -> str:
    """12 hexadecimal characters that name this runner for ever; whoever asks first makes them."""
    path = folder / "install-id"
    for _ in range(2):
        with contextlib.suppress(FileNotFoundError):
            text = path.read_text().strip()
            if len(text) != 12 or not set(text) <= set("0123456789abcdef"):
                raise SettingsError(f"{path}: damaged; put 12 hexadecimal characters there")
            return text
        with write_beside(path, secrets.token_hex(6) + "\n") as made, contextlib.suppress(FileExistsError):
            os.link(made, path)  # fails, unlike a rename, when another process was first
    return path.read_text().strip()


@contextlib.contextmanager
def write_beside(path: Path, text: str) -> Iterator[Path]:
    """A complete, private (0600) file beside `path`, to be linked or moved into place; gone afterwards."""
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
    """Hold an exclusive lock on `path` (its content names this process); raises `Busy` at once when it is taken."""
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
