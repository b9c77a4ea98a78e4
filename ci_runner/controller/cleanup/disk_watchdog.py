"""`Watchdog`: measures jobs' disk use while they run, and names those above their limit.

It measures from outside, because the engine's limits cover files or memory but not a job's whole disk use: the files
in its folders (by descriptors, so that names and their length do not matter), deleted files that are still open, and
its services' files. Measurements take turns in short slices, so that a job with a million files does not block the
others. It guards the file system itself, too: if free space gets short while jobs run, it names the job that wrote
most. `decide` chooses the reaction.
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

#: Seconds between two measurements of a job that is quick to measure.
INTERVAL: Final = 1.0
#: A long measurement is followed by a pause of at least this many times its duration.
_PAUSE: Final = 4
#: Seconds between checks of the free space.
_TICK: Final = 0.2
#: Seconds of one job's slice, and of all slices in one tick.
_SLICE: Final = 0.02
_SLICES: Final = 0.1
#: Seconds between two queries of services; the engine may take long to answer.
_SERVICES: Final = 2.0
#: Parts of a working folder that a container can write; in `work` an overlay stores files while copying them.
_PARTS: Final = ("upper", "copy", "spool", "work", "kept-upper", "kept-work")
#: Minimum bytes to count per entry of a folder, so that empty files cannot use up a file system.
ENTRY: Final = 4096
#: If space is short: a job that wrote less than this part of the reserve is not the cause.
_NEGLIGIBLE: Final = 64
#: Inodes are short if less than this part is free.
_INODES: Final = 50
#: Seconds for a named job to end, and then for its files to be removed, before another is named.
_PATIENCE: Final = 60.0
_REMOVAL: Final = 10.0


@dataclass
class Watchdog:
    """Measures the jobs of the last `watch`, in its own thread."""

    #: Parent folder of all attempts' working folders.
    work: Path
    #: Maximum bytes that a job may write, its services included.
    limit: int
    wake: Callable[[], None]
    #: Returns job id → bytes written by its services; may raise any error of an engine.
    services: Callable[[], Mapping[str, int]] = dict
    #: As `Engine.footprint`.
    footprint: Callable[[str], Footprint] = lambda container_id: Footprint()
    #: Bytes that must stay free.
    reserve: int = 0
    interval: float = INTERVAL
    _watched: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    _serving: frozenset[str] = frozenset()
    #: The last result of `services`.
    _written: Mapping[str, int] = field(default_factory=dict)
    _over: frozenset[str] = field(default_factory=frozenset)
    _meters: dict[str, _Meter] = field(default_factory=dict)
    #: The job being ended because the file system is nearly full, and since when.
    _named: tuple[str, float] | None = None
    _warned: bool = False

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name="disk-watchdog", daemon=True),
            threading.Thread(target=self._ask_services, name="services-watchdog", daemon=True),
        ]

    def start(self) -> None:
        """Start measuring."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def watch(self, jobs: Mapping[str, tuple[str, ...]], serving: Iterable[str] = ()) -> None:
        """Measure these jobs (id → ids of their running containers) from now on.

        Include the services of the jobs in `serving`, which have services, or are about to get them.
        """
        self._serving = frozenset(serving)
        self._watched = {**dict.fromkeys(self._serving, ()), **jobs}

    def over(self) -> frozenset[str]:
        """Return the ids of the watched jobs that exceeded their limit."""
        return self._over

    def filling(self) -> frozenset[str]:
        """Return the ids of jobs to end because the file system is nearly full."""
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
        """Guard the file system and measure a little; return whether a measurement is unfinished."""
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
        # The jobs not measured in this tick go first the next time.
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
        """Return the bytes that services wrote by the engine's count, without those already measured."""
        return max(0, self._written.get(meter.job_id, 0) - meter.of_services)

    def _ask_services(self) -> None:
        while not self._stop.wait(_SERVICES):
            if not self._serving:
                self._written = {}
                continue
            try:
                self._written = self.services()
            except (EngineUnavailable, PermanentError) as error:  # logged a moment ago
                _log.debug("what services wrote could not be measured: %s", error)
            except Exception as error:
                _log.warning("what services wrote could not be measured: %s: %s", type(error).__name__, error)

    # -- the file system
    def _guard(self) -> None:
        """Name the job that wrote most if the jobs' file system is nearly full, one at a time."""
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
        """Return whether a job's files may still be on the disk."""
        passed = time.monotonic() - since
        if job_id in self._watched or any(True for _ in self.folders(job_id)):
            return passed < _PATIENCE
        return is_short and passed < _REMOVAL

    def _greediest(self, space: _Space) -> str | None:
        """Return the job that is most probably the reason why space is short.

        Judge by the measured files if they can explain the loss. Otherwise the data is newer, or cannot be measured:
        then judge by all that a job's processes have written so far.
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
        # All working folders of the job: engines without mounts run it in one that belongs to no attempt.
        with contextlib.suppress(FileNotFoundError), os.scandir(self.work) as entries:
            for entry in entries:
                if entry.name.startswith(f"{job_id}-"):
                    yield from ((entry.name, part) for part in _PARTS)


@dataclass(frozen=True)
class _Space:
    """Free space of a file system."""

    free: int
    #: None if their number is not fixed.
    inodes: int | None
    all_inodes: int

    def is_short(self, reserve: int) -> bool:
        """Return whether bytes or inodes are short."""
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
        #: Bytes of the last measurement, or of the current one if that is more.
        self.bytes = 0
        #: Bytes of services in the last measurement.
        self.of_services = 0
        #: Process ids on this machine, as of the last measurement.
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
        """Return whether a measurement is unfinished or due."""
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
        """Measure folders first: a file deleted meanwhile is then found open, or is gone."""
        for path in self._watchdog.folders(self.job_id):
            yield from sizes_below(self._watchdog.work, *path)
        processes: list[int] = []
        of_services = 0
        for container_id in containers:
            try:
                footprint = self._watchdog.footprint(container_id)
            except (EngineUnavailable, PermanentError) as error:
                _log.debug("job %s: its container cannot be inspected: %s", self.job_id, error)
                continue
            processes += footprint.processes
            for size in itertools.chain.from_iterable(map(sizes_below, footprint.folders)):
                of_services += size if footprint.is_service else 0
                yield size
        self.of_services = of_services
        self.processes = tuple(processes)
        yield from open_files.unnamed_bytes(processes)


def sizes_below(root: Path, *names: str) -> Iterator[int]:
    """Yield the bytes on disk of everything in a folder; count the content of a file with several names once."""
    seen: set[tuple[int, int]] = set()
    try:
        with opened_folder(root, *names) as top:
            for entry in Walk(top):
                yield _size(entry, seen)
    except (FileNotFoundError, PermissionError):  # not made yet, gone, or unreadable without root
        return


def _size(entry: Entry, seen: set[tuple[int, int]]) -> int:
    status = entry.status
    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
        if (status.st_dev, status.st_ino) in seen:
            return ENTRY  # another name of a counted file
        seen.add((status.st_dev, status.st_ino))
    return max(ENTRY, status.st_blocks * 512)
