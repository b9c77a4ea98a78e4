"""`Watchdog`: adds up, every two seconds, what jobs and their services have written, and tells who wrote too much.

Measured from outside, because the engine's own limits count files or memory but not a job's whole disk use.
The decision what to do about it is `reconcile`'s.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ci_runner.errors import EngineUnavailable, PermanentError

_log = logging.getLogger(__name__)

#: Seconds between two measurements.
INTERVAL: Final = 2.0
#: A measurement that took long is followed by a pause of so many times as long, at least.
_PAUSE: Final = 4
#: Parts of a working folder that the job can write.
_PARTS: Final = ("upper", "copy", "spool")


@dataclass
class Watchdog:
    """Measures the jobs that `watch` named last, in a thread of its own."""

    #: The folder of all attempts' working folders.
    work: Path
    #: Bytes one job may write, with its services.
    limit: int
    wake: Callable[[], None]
    #: Job id → bytes that its services have written; may raise what an engine raises.
    services: Callable[[], Mapping[str, int]] = dict
    interval: float = INTERVAL
    _watched: frozenset[str] = frozenset()
    _serving: frozenset[str] = frozenset()
    #: What `services` said last.
    _written: Mapping[str, int] = field(default_factory=dict)
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

    def watch(self, job_ids: Iterable[str], serving: Iterable[str] = ()) -> None:
        """Measure these jobs from now on; and those that are `serving`, which have, or are about to get, services."""
        self._serving = frozenset(serving)
        self._watched = self._serving.union(job_ids)

    def over(self) -> frozenset[str]:
        """Ids of the watched jobs that have written too much."""
        return self._over

    def _run(self) -> None:
        pause = self.interval
        while not self._stop.wait(pause):
            began = time.monotonic()
            try:
                self._measure()
            except Exception:
                _log.exception("disk use could not be measured")
            pause = max(self.interval, _PAUSE * (time.monotonic() - began))

    def _measure(self) -> None:
        over = set()
        services = self._services()
        for job_id in self._watched:
            # All working folders of the job: engines without mounts run it in one that no attempt owns.
            folders = [folder / part for folder in self.work.glob(f"{job_id}-*") for part in _PARTS]
            written = sum(bytes_below(folder, self.limit) for folder in folders)
            if written + services.get(job_id, 0) > self.limit:
                over.add(job_id)
        changed = over != self._over
        self._over = frozenset(over)
        if changed and over:
            self.wake()

    def _services(self) -> Mapping[str, int]:
        """What services have written; an engine that cannot say it now said it a moment ago."""
        if not self._serving:
            return {}
        try:
            self._written = self.services()
        except (EngineUnavailable, PermanentError) as error:
            _log.debug("what services wrote could not be measured: %s", error)
        return self._written


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
