"""`Snapshot`: all input of a decision, read once per tick into one frozen value.

The order of reading matters, because actions go on meanwhile: first the actions in flight, then the rows, then the
containers, then the builds in progress. An action that ends in between is seen either as in flight (and left
alone) or with all its effects.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Final, NamedTuple

from ci_runner.controller.engine import Engine, Observed
from ci_runner.controller.job_limits import limits_of
from ci_runner.controller.spool.reader import ExitFrame
from ci_runner.errors import EngineUnavailable
from ci_runner.model.job import Job
from ci_runner.pipelines.run import Run
from ci_runner.pipelines.scheduler import Facts
from ci_runner.settings.groups import ReconcileSettings
from ci_runner.store import Store
from pytest_remote_ci.wire.protocol import SubmitOptions

#: Subject → names of the actions in progress for it.
InFlight = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Policy:
    """The operator's limits, as far as decisions need them. Times in seconds, sizes in bytes."""

    concurrency: int = 1
    builds: int = 2
    test_timeout: float = 3600.0
    prepare_timeout: float = 900.0
    grace: float = 10.0
    memory: int = 2 << 30
    max_memory: int = 8 << 30
    #: Of jobs that name none; requests above the maxima are refused.
    file_size: int = 1 << 30
    shm_size: int = 512 << 20
    disk: int = 4 << 30
    #: Containers of one job, including those lost before the user's command ran.
    attempts: int = 3
    #: Jobs that may wait for a free build in addition to those that are building; with more, no job is taken up of a
    #: user who has one being prepared.
    build_queue: int = 4

    @property
    def most_building(self) -> int:
        """Return how many jobs may build or wait for it; beyond them one of each other user, up to as many users."""
        return self.builds + self.build_queue

    @classmethod
    def of(cls, settings: ReconcileSettings) -> Policy:
        """Return the policy from the settings."""
        limits = limits_of(SubmitOptions(), settings)
        return cls(
            concurrency=settings.concurrency,
            builds=settings.builds,
            test_timeout=settings.test_timeout,
            prepare_timeout=settings.prepare_timeout,
            grace=settings.grace,
            memory=settings.memory,
            max_memory=settings.max_memory,
            file_size=limits.file_size,
            shm_size=limits.shm_size,
            disk=settings.disk,
        )


@dataclass(frozen=True)
class SpoolResult:
    """The result of a spool that has been read to its end.

    The container has ended, or is about to, because the worker has sent its exit frame.
    """

    #: The user's command ran.
    started: bool
    #: The worker's exit frame; None if there was none.
    exit: ExitFrame | None = None
    #: The test that was running at the end; None if there was none, or it is unknown.
    running: str | None = None


@dataclass(frozen=True)
class OpenRun:
    """A run that has not ended, and the state of its jobs."""

    run: Run
    facts: Mapping[str, Facts]
    #: It has exceeded its time limit.
    timed_out: bool = False
    #: The deadlines of its stages, and how many of them have passed.
    deadlines: tuple[dt.datetime, ...] = ()
    passed: int = 0

    def __post_init__(self) -> None:
        """Freeze the mapping."""
        object.__setattr__(self, "facts", MappingProxyType(dict(self.facts)))


@dataclass(frozen=True)
class Snapshot:
    """The state at one moment. It never changes, and is all that `decide` sees.

    Mappings are copied, and the copies are read-only.
    """

    now: dt.datetime
    policy: Policy = Policy()
    #: Jobs that have not ended.
    jobs: tuple[Job, ...] = ()
    #: Ended jobs with remains to be removed.
    uncleaned: tuple[Job, ...] = ()
    #: When a job of each user was last taken up.
    served: Mapping[str, dt.datetime] = field(default_factory=dict)
    #: Users that were deactivated: none of their jobs starts.
    inactive: frozenset[str] = frozenset()
    #: All containers of this install; None if the engine does not answer.
    observed: tuple[Observed, ...] | None = ()
    #: Subject → names of the actions in progress for it.
    in_flight: InFlight = field(default_factory=dict)
    #: Subjects to leave alone for a while after a failure.
    held: frozenset[str] = frozenset()
    #: (job id, attempt) → result of its spool, once read to the end.
    endings: Mapping[tuple[str, int], SpoolResult] = field(default_factory=dict)
    #: Jobs that exceeded their disk limit.
    over_disk: frozenset[str] = frozenset()
    #: Jobs that wrote most while the file system of all jobs was nearly full.
    filling_disk: frozenset[str] = frozenset()
    #: Jobs to which this process has sent TERM.
    signalled: frozenset[str] = frozenset()
    #: Names of the build containers in use.
    builds: frozenset[str] = frozenset()
    #: Runs that have not ended, without those unchanged since their last decision.
    runs: tuple[OpenRun, ...] = ()

    def __post_init__(self) -> None:
        """Freeze the mappings."""
        for name in _MAPPINGS:
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def differs_only_in_time(self, other: Snapshot) -> bool:
        """Return whether both are equal except for `now`."""
        return all(getattr(self, name) == getattr(other, name) for name in _TIMELESS)


_MAPPINGS: Final = ("served", "in_flight", "endings")
_TIMELESS: Final = tuple(item.name for item in fields(Snapshot) if item.name != "now")


class JobRows:
    """The rows of jobs as last read; read again only if there was a commit since.

    SQLite's `data_version` misses no commit, so remembered rows equal those that would be read.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._bell = store.doorbell()
        self._known: _JobRows | None = None

    def read(self) -> tuple[_JobRows, bool]:
        """Return the rows, and whether they were read again; if not, other data of the store is unchanged, too."""
        rang = self._bell.rang()  # before reading: a later commit rings the next time
        if self._known is not None and not rang:
            return self._known, False
        self._known = None
        jobs = self._store.jobs
        known = self._known = _JobRows(
            tuple(jobs.open()), tuple(jobs.uncleaned()), jobs.served(), self._store.users.inactive()
        )
        return known, True

    def forget(self) -> None:
        """Read again next time, whether or not the bell rings."""
        self._known = None

    def close(self) -> None:
        """Close the bell's connection."""
        self._bell.close()


class _JobRows(NamedTuple):
    """As in `Snapshot`."""

    jobs: tuple[Job, ...]
    uncleaned: tuple[Job, ...]
    served: Mapping[str, dt.datetime]
    inactive: frozenset[str]


@dataclass
class ContainerView:
    """The containers as last seen; listed again only if something may have changed."""

    engine: Engine
    _observed: tuple[Observed, ...] | None = None

    def read(self, jobs: tuple[Job, ...], *, refresh: bool) -> tuple[Observed, ...] | None:
        """Return all containers, in full detail if an open job's has ended; None if the engine does not answer."""
        if not refresh and self._observed is not None and not self._is_outdated(jobs, self._observed):
            return self._observed
        try:
            self._observed = self._list(jobs)
        except EngineUnavailable:
            self._observed = None
        return self._observed

    @staticmethod
    def _is_outdated(jobs: tuple[Job, ...], observed: tuple[Observed, ...]) -> bool:
        """Return whether a job's command runs by its row, but its container is remembered from before the start.

        The remembered list is then older than the rows; otherwise the container would count as lost.
        """
        created = {(item.job_id, item.attempt) for item in observed if item.state == "created"}
        return bool(created) and any(
            job.phase in ("testing", "finishing") and (job.id, job.attempt) in created for job in jobs
        )

    def _list(self, jobs: tuple[Job, ...]) -> tuple[Observed, ...]:
        listed = {item.id: item for item in self.engine.list()}
        open_ids = {job.id for job in jobs}
        # A container named in a row must be inspected itself before it counts as lost.
        doubtful = {job.container_id for job in jobs if job.container_id} - listed.keys()
        ended = {item.id for item in listed.values() if item.job_id in open_ids and item.state != "running"}
        for container_id in doubtful | ended:
            detail = self.engine.inspect(container_id)
            if detail is not None:
                listed[container_id] = detail
            else:
                listed.pop(container_id, None)
        return tuple(listed.values())


def read(
    rows: _JobRows,
    sight: ContainerView,
    *,
    now: dt.datetime,
    policy: Policy,
    refresh: bool,
    in_flight: InFlight,
    builds: Callable[[], frozenset[str]],
) -> Snapshot:
    """Read containers and builds, in this order; `in_flight` was read before, and the `rows` after it.

    `refresh`: list the containers again.
    """
    observed = sight.read(rows.jobs, refresh=refresh)
    return Snapshot(now, policy, *rows, observed, in_flight, builds=builds())
