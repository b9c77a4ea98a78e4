"""``ci-runner status``: what the runner does at the moment, for its operator; read from the database alone."""

from __future__ import annotations

import dataclasses
import datetime as dt
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ci_runner.admin.console import Console
from ci_runner.model.job import Job, User, format_time, utcnow
from ci_runner.settings.groups import Settings
from ci_runner.store import Store
from ci_runner.store.lease import LeaseState
from pytest_remote_ci import __version__
from pytest_remote_ci.wire import formats

#: Seconds without a heartbeat after which a controller counts as gone.
_SILENCE = 15.0
#: Seconds between two looks with `--watch`.
_EVERY = 2.0
#: At most so many jobs of the last day that ended without a verdict.
_ERRORS = 5


@dataclass(frozen=True)
class Controller:
    """The controller, and what it says about the engine."""

    holder: str | None
    heartbeat_at: str | None
    is_alive: bool
    engine_silent_since: str | None


@dataclass(frozen=True)
class Queue:
    """The waiting jobs of one user."""

    user: str
    waiting: int
    oldest_wait_seconds: float


@dataclass(frozen=True)
class OpenJob:
    """A job that was taken up."""

    job_id: str
    user: str
    name: str | None
    phase: str
    building: bool
    phase_seconds: float


@dataclass(frozen=True)
class LastError:
    """A job that ended without a verdict."""

    job_id: str
    user: str
    ended_at: str | None
    reason: str | None


@dataclass(frozen=True)
class Disk:
    """The data directory's disk."""

    free_bytes: int
    reserve_bytes: int
    database_bytes: int


@dataclass(frozen=True)
class Status:
    """All of it."""

    version: str
    controller: Controller
    slots: int
    slots_used: int
    queue: Sequence[Queue]
    running: Sequence[OpenJob]
    disk: Disk
    errors: Sequence[LastError]


def collect(store: Store, settings: Settings, now: dt.datetime) -> Status:
    """Read the status from the store and the disk."""
    users = {user.id: user for user in store.list_users()}
    jobs = store.jobs.open()
    taken = [job for job in jobs if job.phase != "queued"]
    path = settings.storage.database_path
    return Status(
        version=__version__,
        controller=_controller(store.lease.read(), now),
        slots=settings.reconcile.concurrency,
        slots_used=sum(not job.building for job in taken),
        queue=_queue([job for job in jobs if job.phase == "queued"], users, now),
        running=[_open_job(job, users, now) for job in taken],
        disk=Disk(
            shutil.disk_usage(settings.storage.data_dir).free,
            settings.storage.disk_reserve,
            path.stat().st_size,
        ),
        errors=_errors(store, users),
    )


def show(read: Callable[[], Status], console: Console, *, as_json: bool, watch: bool) -> int:
    """Print the status, with `watch` again and again until Ctrl-C; return the exit code."""
    while True:
        status = read()
        if as_json:
            console.json(dataclasses.asdict(status))
        else:
            _print(status, console)
        if not watch:
            return 0 if status.controller.is_alive and not status.controller.engine_silent_since else 1
        time.sleep(_EVERY)


def _controller(lease: LeaseState, now: dt.datetime) -> Controller:
    age = None if lease.heartbeat_at is None else (now - lease.heartbeat_at).total_seconds()
    return Controller(
        lease.holder,
        format_time(lease.heartbeat_at),
        age is not None and age <= _SILENCE,
        format_time(lease.engine_silent_since),
    )


def _queue(waiting: Sequence[Job], users: dict[str, User], now: dt.datetime) -> list[Queue]:
    """Return the queue by user, the one that waits longest first."""
    by_user: dict[str, list[float]] = {}
    for job in waiting:
        by_user.setdefault(_name(job, users), []).append(_seconds(job.submitted_at, now))
    found = [Queue(user, len(waits), max(waits)) for user, waits in by_user.items()]
    return sorted(found, key=lambda item: -item.oldest_wait_seconds)


def _open_job(job: Job, users: dict[str, User], now: dt.datetime) -> OpenJob:
    name = job.planned or job.name
    return OpenJob(job.id, _name(job, users), name, job.phase, job.building, _seconds(job.phase_since, now))


def _errors(store: Store, users: dict[str, User]) -> list[LastError]:
    failed = store.list_jobs(status="failed", limit=_ERRORS, since=utcnow() - dt.timedelta(days=1))
    return [LastError(job.id, _name(job, users), format_time(job.end_time), job.reason) for job in failed]


def _name(job: Job, users: dict[str, User]) -> str:
    user = users.get(job.user_id or "")
    return user.email if user is not None else job.user_id or "-"


def _seconds(since: dt.datetime | None, now: dt.datetime) -> float:
    return round(max(0.0, (now - since).total_seconds()), 1) if since is not None else 0.0


def _print(status: Status, console: Console) -> None:
    controller, disk = status.controller, status.disk
    state = "runs" if controller.is_alive else "does not run"
    silent = controller.engine_silent_since
    console.line(f"Runner      {status.version}")
    console.line(f"Controller  {state} ({controller.holder or 'never started'})")
    console.line(f"Engine      {f'does not answer since {silent}' if silent else 'answers'}")
    console.line(f"Slots       {status.slots_used} of {status.slots} in use")
    console.line(
        f"Disk        {formats.size(disk.free_bytes)} free (reserve {formats.size(disk.reserve_bytes)}), "
        f"database {formats.size(disk.database_bytes)}"
    )
    waiting = [
        (item.user, str(item.waiting), formats.duration(item.oldest_wait_seconds)) for item in status.queue
    ]
    running = [
        (item.job_id[:8], item.user, item.name or "-", _phase(item), formats.duration(item.phase_seconds))
        for item in status.running
    ]
    errors = [
        (item.job_id[:8], item.user, item.ended_at or "-", item.reason or "-") for item in status.errors
    ]
    _table(console, ("Waiting: user", "Jobs", "Longest"), waiting)
    _table(console, ("Running", "User", "Name", "Phase", "Since"), running)
    _table(console, ("No verdict", "User", "Ended", "Reason"), errors)


def _table(console: Console, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        console.table(head, rows)


def _phase(item: OpenJob) -> str:
    return f"{item.phase} (building)" if item.building else item.phase
