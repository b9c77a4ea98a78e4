"""Room on the disk for bodies that are being received: counted as they arrive, and shared among users.

What a client announces takes nothing from anybody: a body is refused at its head only when it alone could not be kept,
and while it arrives when the disk is full. A user with one body may use all there is, one with several at once half.
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

#: Seconds for which a look at the free disk is good.
_DISK_LOOK: Final = 0.5
#: A body waits on disk while its contents are copied out of it.
_COPIES: Final = 2


class UploadSpace:
    """The bodies on their way; any thread."""

    def __init__(self, folder: Path, disk_reserve: int, per_user: int) -> None:
        """`disk_reserve`: bytes that stay free. `per_user`: bodies of one user at once."""
        self.folder = folder
        self._reserve = disk_reserve
        self._per_user = per_user
        self._lock = threading.Lock()
        self._bodies: Counter[str] = Counter()
        self._arrived: Counter[str] = Counter()
        #: Free bytes at the last look, less what arrived since.
        self._free = 0
        self._looked = float("-inf")

    def begin(self, user_id: str, length: int) -> Error | None:
        """Count a body of `length` bytes (0: not known); an answer instead when it is not taken."""
        with self._lock:
            if self._bodies[user_id] >= self._per_user:
                text = f"You are sending {self._per_user} bodies at once, which is the most for one user"
                return too_many(text, 2)
            if self._room() < _COPIES * length:
                return disk_full()
            self._bodies[user_id] += 1
        return None

    def arrived(self, user_id: str, size: int) -> Error | None:
        """Count `size` more bytes of a body that has begun; an answer instead when there is no room for more."""
        with self._lock:
            self._arrived[user_id] += size
            self._free -= size
            room = self._room()
            if room < 0:
                return disk_full()
            mine = self._arrived[user_id]
            if self._bodies[user_id] > 1 and _COPIES * mine > (room + _COPIES * mine) // 2:
                text = (
                    "Your bodies take half of the room that the runner has for them; send one after the other"
                )
                return too_many(text, 10)
        return None

    def end(self, user_id: str, size: int) -> None:
        """Forget a body of which `size` bytes arrived."""
        with self._lock:
            for counter, count in ((self._bodies, 1), (self._arrived, size)):
                counter[user_id] -= count
                if counter[user_id] <= 0:
                    del counter[user_id]

    def _room(self) -> int:
        """Bytes above the reserve once all that has arrived is copied."""
        now = time.monotonic()
        if now - self._looked > _DISK_LOOK:
            self._free = shutil.disk_usage(self.folder).free
            self._looked = now
        return self._free - sum(self._arrived.values()) - self._reserve
