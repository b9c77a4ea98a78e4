"""Disk space for bodies that are being received: counted as they arrive, and shared among users.

The announced length reserves nothing. A body is refused at its head only if it alone could not be stored, and while
it arrives if the disk is full. A user with one body may use all free space, a user with several at once half of it.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final

from waitress.utilities import Error

from ci_runner.server.http.refusals import disk_full, too_many

#: Seconds for which a measurement of the free disk space is used.
_DISK_LOOK: Final = 0.5
#: Copies on the disk: the body waits there while its contents are copied out of it.
_COPIES: Final = 2


class UploadSpace:
    """The bodies being received; safe in any thread."""

    def __init__(self, folder: Path, disk_reserve: int, per_user: int) -> None:
        """`disk_reserve`: bytes that stay free. `per_user`: maximum number of bodies of one user at once."""
        self.folder = folder
        self._reserve = disk_reserve
        self._per_user = per_user
        self._lock = threading.Lock()
        self._bodies: Counter[str] = Counter()
        self._arrived: Counter[str] = Counter()
        #: Free bytes at the last measurement, less the bytes received since.
        self._free = 0
        self._looked = float("-inf")

    def begin(self, user_id: str, length: int) -> Error | None:
        """Count a body of `length` bytes (0: unknown); return an error response if it is refused."""
        with self._lock:
            if self._bodies[user_id] >= self._per_user:
                text = f"You are sending {self._per_user} bodies at once, which is the most for one user"
                return too_many(text, 2)
            if self._room() < _COPIES * length:
                return disk_full()
            self._bodies[user_id] += 1
        return None

    def arrived(self, user_id: str, size: int) -> Error | None:
        """Count `size` more bytes of a body; return an error response if there is no room for more."""
        with self._lock:
            self._arrived[user_id] += size
            self._free -= size
            room = self._room()
            if room < 0:
                return disk_full()
            mine = self._arrived[user_id]
            if self._bodies[user_id] > 1 and _COPIES * mine > (room + _COPIES * mine) // 2:
                text = "Your uploads use half of the runner's space for uploads; send one after the other"
                return too_many(text, 10)
        return None

    def end(self, user_id: str, size: int) -> None:
        """Stop counting a body of which `size` bytes arrived."""
        with self._lock:
            for counter, count in ((self._bodies, 1), (self._arrived, size)):
                counter[user_id] -= count
                if counter[user_id] <= 0:
                    del counter[user_id]

    def _room(self) -> int:
        """Return the bytes above the reserve once all received bodies are copied."""
        now = time.monotonic()
        if now - self._looked > _DISK_LOOK:
            self._free = shutil.disk_usage(self.folder).free
            self._looked = now
        return self._free - sum(self._arrived.values()) - self._reserve
