"""Encrypt secrets in the database with a key that is stored in a file next to it.

Neither the database's pages, its write-ahead log, nor a copy of it reveals a value without that file. The runner's
own user and root can read both files, and so the values. The key is made when the first value is stored. If it is
lost or replaced, the stored values are lost, but nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci_runner.errors import PermanentError
from ci_runner.storage import data_dir

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

_log = logging.getLogger(__name__)

FILE_NAME: Final = "secrets.key"
#: Maximum size of a key file in bytes.
_LONGEST: Final = 1000


class SecretsUnreadable(PermanentError):
    """A stored secret cannot be decrypted; the text is for the owner of the job that needs it."""


class Encryption:
    """Encrypts and decrypts with the key in `path`; may be used from any thread and by several processes."""

    def __init__(self, path: Path) -> None:
        """Set the path; the key is read at first use."""
        self.path = path
        self._fernet: Fernet | None = None

    def encrypt(self, text: str) -> str:
        """Return the encrypted text in ASCII; makes the key if missing. Raises `SecretsUnreadable`, OSError."""
        fernet = self._read()
        if fernet is None:
            self._make()
            fernet = self._read()
        if fernet is None:
            raise self._unreadable("is missing")
        return fernet.encrypt(text.encode("utf-8", "surrogatepass")).decode("ascii")

    def decrypt(self, token: str) -> str:
        """Return the text that `encrypt` got. Raises `SecretsUnreadable`."""
        from cryptography.fernet import InvalidToken

        # The key in memory may be outdated: another process makes a new one when the file is missing.
        for fernet in (self._fernet, self._read()):
            if fernet is not None:
                with contextlib.suppress(InvalidToken):
                    return fernet.decrypt(token.encode()).decode("utf-8", "surrogatepass")
        raise self._unreadable(
            "is not the one that they were stored with" if self.path.exists() else "is missing"
        )

    def _read(self) -> Fernet | None:
        """Return the key in the file; None if there is no file."""
        from cryptography.fernet import Fernet

        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(f"cannot be read ({error.strerror})") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise self._unreadable("is not a file of the runner's user")
            if status.st_mode & 0o077:
                os.fchmod(descriptor, 0o600)
            content = os.read(descriptor, _LONGEST)
        finally:
            os.close(descriptor)
        try:
            self._fernet = Fernet(content.strip())
        except ValueError as error:
            raise self._unreadable("is damaged") from error
        return self._fernet

    def _make(self) -> None:
        """Make a new key, unless another process was first."""
        from cryptography.fernet import Fernet

        with (
            data_dir.write_beside(self.path, Fernet.generate_key().decode() + "\n") as made,
            contextlib.suppress(FileExistsError),
        ):
            os.link(made, self.path)

    def _unreadable(self, what: str) -> SecretsUnreadable:
        _log.error("the key of secrets, %s, %s", self.path, what)
        return SecretsUnreadable(
            f"the job's secrets cannot be read: the runner's key for them {what}; submit again"
        )
