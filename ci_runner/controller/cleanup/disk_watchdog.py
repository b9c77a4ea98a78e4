"""`Watchdog`: adds up what jobs write while they run, and names those that wrote too much.

Measured from outside, because the engine's own limits count files or memory but not a job's whole disk use: what lies
in its folders (by descriptors, so that names and their length do not matter), files that were deleted and are still
open, and what its services write. Measurements take turns in short slices, so that a job with a million files keeps
nobody's turn away. Beside the limit of each job the file system itself is guarded: where free space gets short while
jobs run, the one that wrote most is named. What to do about it is `reconcile`'s to decide.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ci_runner.controller.cleanup import open_files
from ci_runner.controller.engine import Footprint
from ci_runner.errors import EngineUnavailable, PermanentError
from ci_runner.storage.safe_fs import Entry, Walk, opened_folder

_log = logging.getLogger(__name__)

#: Seconds between two measurements of a job that is quickly measured.
INTERVAL: Final = 1.0
#: A measurement that took long is followed by a pause of so many times as long, at least.
_PAUSE: Final = 4
#: Seconds between looks at the free space.
_TICK: Final = 0.2
#: Seconds of one job's slice, and of all in one tick.
_SLICE: Final = 0.02
_SLICES: Final = 0.1
#: Seconds between two questions about services; the engine may take long to answer.
_SERVICES: Final = 2.0
#: Parts of a working folder that a container can write; `work` is where an overlay keeps what it is copying.
_PARTS: Final = ("upper", "copy", "spool", "work")
#: What anything in a folder counts at least, so that empty files cannot use up a file system.
_ENTRY: Final = 4096
#: Where space is short: who wrote less than this part of the reserve is not the reason.
_NEGLIGIBLE: Final = 64
#: A file system has too few inodes when less than this part is free.
_INODES: Final = 50
#: Seconds that a job which was named gets to go before another is, and its files after it.
_PATIENCE: Final = 60.0
_REMOVAL: Final = 10.0


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
    #: As `Engine.footprint`.
    footprint: Callable[[str], Footprint] = lambda container_id: Footprint()
    #: Bytes that are to stay free.
    reserve: int = 0
    interval: float = INTERVAL
    _watched: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    _serving: frozenset[str] = frozenset()
    #: What `services` said last.
    _written: Mapping[str, int] = field(default_factory=dict)
    _over: frozenset[str] = field(default_factory=frozenset)
    _meters: dict[str, _Meter] = field(default_factory=dict)
    #: The job that is ended because the file system is nearly full, and since when.
    _named: tuple[str, float] | None = None
    _warned: bool = False

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name="disk-watchdog", daemon=True),
            threading.Thread(target=self._ask_services, name="services-watchdog", daemon=True),
        ]

    def start(self) -> None:
        """Begin to measure."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def watch(self, jobs: Mapping[str, tuple[str, ...]], serving: Iterable[str] = ()) -> None:
        """Measure these jobs (id → ids of their containers that run) from now on.

        And those that are `serving`, which have, or are about to get, services.
        """
        self._serving = frozenset(serving)
        self._watched = {**dict.fromkeys(self._serving, ()), **jobs}

    def over(self) -> frozenset[str]:
        """Return the ids of the watched jobs that have written more than one job may."""
        return self._over

    def filling(self) -> frozenset[str]:
        """Return the ids of jobs that are to end because the file system is nearly full."""
        named = self._named
        return frozenset({named[0]}) if named is not None else frozenset()

    def _run(self) -> None:
        pause = _TICK
        while not self._stop.wait(pause):
            began = time.monotonic()
            try:
                unfinished = self._tick()
            except Exception as error:
                _log.warning("disk use could not be measured: %s: %s", type(error).__name__, error)
                unfinished = False
            spent = time.monotonic() - began
            pause = max(_PAUSE * spent, 0 if unfinished else _TICK)

    def _tick(self) -> bool:
        """Guard the file system and measure a little; return whether a measurement is not finished."""
        watched = self._watched
        self._meters = {job_id: self._meters.get(job_id) or _Meter(self, job_id) for job_id in watched}
        before = self._over, self._named
        self._guard()
        end = time.monotonic() + _SLICES
        due = [meter for meter in self._meters.values() if meter.is_due()]
        while due and time.monotonic() < end:
            for meter in list(due):
                if meter.advance(watched[meter.job_id]):
                    due.remove(meter)
        # Whoever did not get far goes first the next time.
        self._meters = {meter.job_id: meter for meter in (*due, *self._meters.values())}
        self._over = frozenset(
            job_id
            for job_id, meter in self._meters.items()
            if meter.bytes + self._unmeasured(meter) > self.limit
        )
        if (self._over, self._named) != before and (self._over or self._named):
            self.wake()
        return bool(due)

    def _unmeasured(self, meter: _Meter) -> int:
        """Return what services wrote by the engine's count, as far as it was not seen here."""
        return max(0, self._written.get(meter.job_id, 0) - meter.of_services)

    def _ask_services(self) -> None:
        while not self._stop.wait(_SERVICES):
            if not self._serving:
                self._written = {}
                continue
            try:
                self._written = self.services()
            except (EngineUnavailable, PermanentError) as error:  # it said it a moment ago
                _log.debug("what services wrote could not be measured: %s", error)
            except Exception as error:
                _log.warning("what services wrote could not be measured: %s: %s", type(error).__name__, error)

    # -- the file system
    def _guard(self) -> None:
        """Name the job that wrote most when the file system of all jobs is nearly full, one at a time."""
        space = _space(self.work)
        is_short = space is not None and self.reserve > 0 and space.is_short(self.reserve)
        if self._named is not None and not self._is_there(*self._named, is_short):
            self._named = None
        if space is None or not is_short:
            self._warned = False
            return
        if self._named is not None:
            return
        found = self._greediest(space)
        if found is None:
            if not self._warned:
                _log.warning("the disk is nearly full (%d bytes free), and not because of a job", space.free)
            self._warned = True
            return
        _log.warning("the disk is nearly full (%d bytes free): job %s wrote most", space.free, found)
        self._named = found, time.monotonic()

    def _is_there(self, job_id: str, since: float, is_short: bool) -> bool:
        """Whether what a job wrote may still be on the disk."""
        passed = time.monotonic() - since
        if job_id in self._watched or any(True for _ in self.folders(job_id)):
            return passed < _PATIENCE
        return is_short and passed < _REMOVAL

    def _greediest(self, space: _Space) -> str | None:
        """Return the job that is most probably the reason why space is short.

        By what was found, if that can explain the loss: else it was written since, or is where nobody can look, and
        then by all that its processes have written so far.
        """
        meters = list(self._meters.values())
        if not meters:
            return None
        lost = max(meter.free_before for meter in meters) - space.free
        measured = {meter.job_id: meter.bytes + self._unmeasured(meter) for meter in meters}
        written = {meter.job_id: open_files.written_bytes(meter.processes) for meter in meters}
        by_size, by_writing = max(measured, key=measured.__getitem__), max(written, key=written.__getitem__)
        unexplained = lost - sum(measured.values())
        if written[by_writing] > measured[by_size] < unexplained:
            by_size, measured = by_writing, written
        return by_size if measured[by_size] >= max(1, self.reserve // _NEGLIGIBLE) else None

    def folders(self, job_id: str) -> Iterator[tuple[str, ...]]:
        """Yield the paths below `work` of folders that a job's containers can write."""
        # All working folders of the job: engines without mounts run it in one that no attempt owns.
        with contextlib.suppress(FileNotFoundError), os.scandir(self.work) as entries:
            for entry in entries:
                if entry.name.startswith(f"{job_id}-"):
                    yield from ((entry.name, part) for part in _PARTS)


@dataclass(frozen=True)
class _Space:
    """What is left of a file system."""

    free: int
    #: None where it has no fixed number of them.
    inodes: int | None
    all_inodes: int

    def is_short(self, reserve: int) -> bool:
        """Whether there is too little of either."""
        return self.free < reserve or (self.inodes is not None and self.inodes * _INODES < self.all_inodes)


def _space(folder: Path) -> _Space | None:
    try:
        found = os.statvfs(folder)
    except OSError:  # not made yet
        return None
    return _Space(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None, found.f_files)


class _Meter:
    """Measures one job, a slice at a time."""

    def __init__(self, watchdog: Watchdog, job_id: str) -> None:
        self.job_id = job_id
        #: Bytes by the last measurement, or by the one that goes on when that is more.
        self.bytes = 0
        #: Bytes of services that were seen by the last measurement.
        self.of_services = 0
        #: Host process ids, as of the last measurement.
        self.processes: tuple[int, ...] = ()
        #: Bytes that were free before this job wrote anything.
        space = _space(watchdog.work)
        self.free_before = space.free if space is not None else 0
        self._watchdog = watchdog
        self._steps: Generator[int, None, None] | None = None
        self._so_far = 0
        self._spent = 0.0
        self._due = 0.0

    def is_due(self) -> bool:
        """Whether a measurement goes on, or is to begin."""
        return self._steps is not None or time.monotonic() >= self._due

    def advance(self, containers: tuple[str, ...]) -> bool:
        """Measure for one slice; return whether the measurement is finished."""
        began = time.monotonic()
        if self._steps is None:
            self._steps, self._so_far, self._spent = self._measure(containers), 0, 0.0
        done = True
        try:
            for number, size in enumerate(self._steps):
                self._so_far += size
                if self._so_far > self._watchdog.limit:
                    break
                if number % 64 == 63 and time.monotonic() > began + _SLICE:
                    done = False
                    break
        except Exception as error:
            _log.warning("job %s: disk use: %s: %s", self.job_id, type(error).__name__, error)
        self._spent += time.monotonic() - began
        if done:
            self._steps.close()
            self.bytes, self._steps = self._so_far, None
            self._due = time.monotonic() + max(self._watchdog.interval, _PAUSE * self._spent)
        self.bytes = max(self.bytes, self._so_far)
        return done

    def _measure(self, containers: tuple[str, ...]) -> Generator[int, None, None]:
        """Folders first: what is deleted meanwhile is open afterwards, or gone."""
        for path in self._watchdog.folders(self.job_id):
            yield from sizes_below(self._watchdog.work, *path)
        processes: list[int] = []
        of_services = 0
        for container_id in containers:
            try:
                footprint = self._watchdog.footprint(container_id)
            except (EngineUnavailable, PermanentError) as error:
                _log.debug("job %s: its container cannot be looked into: %s", self.job_id, error)
                continue
            processes += footprint.processes
            for size in itertools.chain.from_iterable(map(sizes_below, footprint.folders)):
                of_services += size if footprint.is_service else 0
                yield size
        self.of_services = of_services
        self.processes = tuple(processes)
        yield from open_files.unnamed_bytes(processes)


def sizes_below(root: Path, *names: str) -> Iterator[int]:
    """Yield the bytes on disk of everything in a folder; the content of a file with several names counts once."""
    seen: set[tuple[int, int]] = set()
    try:
        with opened_folder(root, *names) as top:
            for entry in Walk(top):
                yield _size(entry, seen)
    except (FileNotFoundError, PermissionError):  # not made yet, or gone; closed to a runner that is not root
        return


def _size(entry: Entry, seen: set[tuple[int, int]]) -> int:
    status = entry.status
    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
        if (status.st_dev, status.st_ino) in seen:
            return _ENTRY  # a name more, which is to be found each time
        seen.add((status.st_dev, status.st_ino))
    return max(_ENTRY, status.st_blocks * 512)
