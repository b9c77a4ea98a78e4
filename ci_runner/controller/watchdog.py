"""`Watchdog`: adds up, every two seconds, what running jobs have written, and tells who wrote too much.

Measured from outside, because the engine's own limits count files or memory but not a job's whole disk use.
The decision what to do about it is `reconcile`'s.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

#: Seconds between two measurements.
INTERVAL: Final = 2.0
#: Parts of a working folder that the job can write.
_PARTS: Final = ("upper", "spool")


@dataclass
class Watchdog:
    """Measures the jobs that `watch` named last, in a thread of its own."""

    #: The folder of all attempts' working folders.
    work: Path
    #: Bytes one job may write.
    limit: int
    wake: Callable[[], None]
    interval: float = INTERVAL
    _watched: frozenset[str] = frozenset()
    _over: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disk-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to measure."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def watch(self, job_ids: Iterable[str]) -> None:
        """Measure these jobs from now on."""
        self._watched = frozenset(job_ids)

    def over(self) -> frozenset[str]:
        """Ids of the watched jobs that have written too much."""
        return self._over

    def _run(self) -> None:
        while not self._stop.wait(self.interval):
            try:
                self._measure()
            except Exception:
                _log.exception("disk use could not be measured")

    def _measure(self) -> None:
        over = set()
        for job_id in self._watched:
            # All working folders of the job: engines without mounts run it in one that no attempt owns.
            folders = [folder / part for folder in self.work.glob(f"{job_id}-*") for part in _PARTS]
            if sum(bytes_below(folder, self.limit) for folder in folders) > self.limit:
                over.add(job_id)
        changed = over != self._over
        self._over = frozenset(over)
        if changed and over:
            self.wake()


def bytes_below(folder: Path, enough: int) -> int:
    """Bytes on disk below `folder`, links not followed; stops counting once there are more than `enough`."""
    total = 0
    pending = [str(folder)]
    while pending and total <= enough:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                        total += 4096
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:  # vanished meanwhile
            continue
    return total
