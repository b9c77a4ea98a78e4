"""Jobs: the requested state (creation, cancellation; by the server) and the actual state (by the controller only).

A job is over when it has an `end_time`. It is written once, with the status and the `complete` event; the outcome
never changes afterwards.
"""

from __future__ import annotations

import builtins
import datetime as dt
import math
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import peewee

from ci_runner import failpoints
from ci_runner.errors import Conflict, NotFound
from ci_runner.model.fair_queue import fair_order, running_per_user
from ci_runner.model.job import Artifact, Job, JobEvent, utcnow
from ci_runner.model.verdict import Verdict
from ci_runner.store import secrets as secret_rows
from ci_runner.store.artifacts import add_inside
from ci_runner.store.database import Database
from ci_runner.store.events import append_inside
from ci_runner.store.lease import Lease
from ci_runner.store.row_cache import Decoder
from ci_runner.store.rows import (
    FirstSubmission,
    Id,
    JobChanges,
    JobTurn,
    Newest,
    OpenJob,
    OwnedJob,
    StoredJob,
)
from ci_runner.store.schema import (
    JobRow,
    JobSecretRow,
    OutboxRow,
    RunRow,
    UserRow,
    from_micros,
    reader,
    to_micros,
)
from ci_runner.store.test_results import counts_inside
from pytest_remote_ci.wire.protocol import PHASES, TERMINAL_STATUSES, Phase, Priority, Status

if TYPE_CHECKING:
    from typing_extensions import Unpack

_CREATE_BEFORE = failpoints.register("store.jobs.create.before", "job written, not committed")
_CREATE_AFTER = failpoints.register("store.jobs.create.after", "job committed, not yet answered")
_ADVANCE_BEFORE = failpoints.register("store.jobs.advance.before", "phase written, not committed")
_ADVANCE_AFTER = failpoints.register("store.jobs.advance.after", "phase committed")
_FINISH_BEFORE = failpoints.register("store.jobs.finish.before", "outcome written, not committed")
_FINISH_AFTER = failpoints.register("store.jobs.finish.after", "outcome committed")

_CHANGEABLE: Final = frozenset(JobChanges.__annotations__)
_NOT_STORED: Final = frozenset({"events", "queue_position"})
#: Columns of `Job`'s fields; the queue's order needs only the second list.
JOB_COLUMNS: Final = tuple(
    getattr(JobRow, name) for name in Job.__dataclass_fields__ if name not in _NOT_STORED
)
_TURN_COLUMNS: Final = tuple(getattr(JobRow, name) for name in JobTurn.__annotations__)
_READ: Final = reader(JOB_COLUMNS, StoredJob)
_PAGE: Final = 1000
#: Ids per statement; SQLite before 3.32 takes at most 999 parameters.
_IDS: Final = 300
#: Seconds of computing all places of the queue that nobody notices.
_CHEAP: Final = 0.01
#: How many times that time the places are used, also if jobs are asked for that are not among them.
_AGE_OF_PLACES: Final = 20
_AGE_WITH_MISSING: Final = 4


class _Served(NamedTuple):
    user_id: str
    at: int


class Jobs:
    """Stored jobs (`store.jobs`)."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease
        # Queries of every tick, compiled once.
        self._decode_open, self._decode_uncleaned = (Decoder(lambda row: Job(**_READ(row))) for _ in range(2))
        jobs = JobRow.select(*JOB_COLUMNS)
        self._open = database.compiled(
            jobs.where(JobRow.end_time.is_null()).order_by(JobRow.submitted_at, JobRow.id)
        )
        over = jobs.where(JobRow.end_time.is_null(False), JobRow.cleaned_at.is_null())
        self._uncleaned = database.compiled(over.order_by(JobRow.end_time))
        users = UserRow.select(UserRow.id, UserRow.served_at)
        self._queue = _QueueCache()
        self._served = database.compiled(users.where(UserRow.served_at.is_null(False)))

    # -- requested state

    def create(
        self,
        job: Job,
        idempotency_key: str | None = None,
        body_digest: str | None = None,
        *,
        secrets: Mapping[str, str] = MappingProxyType({}),
    ) -> Job:
        """Store a new job, durably; return it as stored (`submitted_at` defaults to now).

        `secrets`: values of the variables that `job.options.secrets` names.

        If the user has used the `idempotency_key` before, returns the first job if `body_digest` is the same, else
        raises `Conflict`. A known id raises `Conflict`, an unknown user `NotFound`.
        """
        with self._database.write():
            if idempotency_key is not None:
                first = self._database.first(
                    JobRow.select(JobRow.id, JobRow.body_digest).where(
                        JobRow.user_id == job.user_id, JobRow.idempotency_key == idempotency_key
                    ),
                    FirstSubmission,
                )
                if first is not None and first["body_digest"] != body_digest:
                    raise Conflict("This Idempotency-Key was used for another submission")
                if first is not None:
                    return self._require(first["id"])
            self._require_user(job.user_id)
            insert_inside(self._database, job, idempotency_key=idempotency_key, body_digest=body_digest)
            secret_rows.add_inside(self._database, JobSecretRow, job.id, secrets)
            stored = self._require(job.id)
            failpoints.hit(_CREATE_BEFORE)
        failpoints.hit(_CREATE_AFTER)
        return stored

    def request_cancel(self, job_id: str, by: str) -> Job:
        """Request the job's end; the controller then carries it out. Repeated calls change nothing.

        Returns a cancelled job as it is; raises `Conflict` for a completed or failed job, `NotFound` for an unknown
        one.
        """
        with self._database.write():
            job = self._require(job_id)
            if job.status in ("completed", "failed"):
                raise Conflict(f"Job is already {job.status}")
            self._database.run(
                JobRow.update(cancel_requested_at=utcnow(), cancelled_by=by).where(
                    JobRow.id == job_id, JobRow.end_time.is_null(), JobRow.cancel_requested_at.is_null()
                )
            )
            return self._require(job_id)

    def set_priority(self, job_id: str, priority: Priority) -> Job:
        """Change the priority of a waiting job; raises `Conflict` for any other, `NotFound` for an unknown one."""
        with self._database.write():
            job = self._require(job_id)
            if job.is_over or job.phase != "queued":
                raise Conflict(f"Job does not wait any more: it is {job.phase}")
            self._database.run(JobRow.update(priority=priority).where(JobRow.id == job_id))
            return self._require(job_id)

    # -- reading

    def get(self, job_id: str, user_id: str | None = None) -> Job | None:
        """Return the job with its place in the queue, or None if it does not exist (or is not that user's)."""
        query = JobRow.select(*JOB_COLUMNS).where(JobRow.id == job_id)
        if user_id is not None:
            query = query.where(JobRow.user_id == user_id)
        row = self._database.first(query, StoredJob)
        return self._with_positions([row])[0] if row else None

    def list(
        self,
        user_id: str | None = None,
        *,
        status: Status | None = None,
        since: dt.datetime | None = None,
        query: str | None = None,
        limit: int = _PAGE,
        before: str | None = None,
    ) -> builtins.list[Job]:
        """Return jobs, newest submission first, at most `limit` (never more than 1,000).

        `since`: submitted then or later. `query`: the beginning of the id or a part of the name, ignoring case.
        `before`: a job id; returns the page after that job (`NotFound` if it is unknown).
        """
        select = JobRow.select(*JOB_COLUMNS)
        if user_id is not None:
            select = select.where(JobRow.user_id == user_id)
        if status is not None:
            select = select.where(JobRow.status == status)
        if since is not None:
            select = select.where(JobRow.submitted_at >= since)
        if before is not None:
            last = self._require(before)
            if user_id is not None and last.user_id != user_id:
                raise NotFound("Job not found", before)
            select = select.where(
                (JobRow.submitted_at < last.submitted_at)
                | ((JobRow.submitted_at == last.submitted_at) & (JobRow.id < before))
            )
        select = select.order_by(JobRow.submitted_at.desc(), JobRow.id.desc())
        limit = max(0, min(limit, _PAGE))
        if query:
            # Rows are large: the index has what is compared.
            found = JobRow.id.startswith(query) | JobRow.name.contains(query)
            ids = select.select(JobRow.id).where(found).limit(limit)
            chosen = [row["id"] for row in self._database.rows(ids, Id)]
            return self._with_positions(self._by_id(chosen))
        return self._with_positions(self._database.rows(select.limit(limit), StoredJob))

    def _by_id(self, job_ids: Sequence[str]) -> builtins.list[StoredJob]:
        """Return the rows of jobs in the order of their ids."""
        found: dict[str, StoredJob] = {}
        for start in range(0, len(job_ids), _IDS):
            query = JobRow.select(*JOB_COLUMNS).where(JobRow.id.in_(job_ids[start : start + _IDS]))
            found.update({row["id"]: row for row in self._database.rows(query, StoredJob)})
        return [found[job_id] for job_id in job_ids if job_id in found]

    def secrets(self, job_id: str) -> dict[str, str]:
        """Return the values of the job's own secrets; empty once it is over. Raises `SecretsUnreadable`."""
        return secret_rows.read(self._database, JobSecretRow, job_id)

    def newest(self, job_ids: Collection[str]) -> dict[str, int]:
        """Return job id → number of its newest event, in one cheap query; unknown ids are missing."""
        found: dict[str, int] = {}
        wanted = sorted(job_ids)
        for start in range(0, len(wanted), _IDS):
            query = JobRow.select(JobRow.id, JobRow.last_seq).where(
                JobRow.id.in_(wanted[start : start + _IDS])
            )
            found.update({row["id"]: row["last_seq"] for row in self._database.rows(query, Newest)})
        return found

    def count_waiting(self, user_id: str) -> int:
        """Return how many jobs of the user wait in the queue."""
        waiting = JobRow.select(peewee.fn.COUNT(JobRow.id)).where(
            JobRow.end_time.is_null(), JobRow.phase == "queued", JobRow.user_id == user_id
        )
        return self._database.integer(waiting)

    def open(self) -> builtins.list[Job]:
        """Return all jobs that are not over, oldest submission first, without queue positions."""
        return self._decode_open(self._database.sql(*self._open))

    def uncleaned(self) -> builtins.list[Job]:
        """Return jobs that are over with container, spool or workspace not yet removed, in the order they ended."""
        return self._decode_uncleaned(self._database.sql(*self._uncleaned))

    def served(self) -> dict[str, dt.datetime]:
        """Return user id → when a job of the user last left the queue; missing if none ever did."""
        return {
            served.user_id: from_micros(served.at)
            for served in map(_Served._make, self._database.sql(*self._served))
        }

    def queue(self) -> dict[str, int]:
        """Return job id → place in the queue, from 1; jobs about to be cancelled have none."""
        rows = self._database.rows(JobRow.select(*_TURN_COLUMNS).where(JobRow.end_time.is_null()), JobTurn)
        jobs = [Job(**row) for row in rows]
        waiting = [job for job in jobs if job.phase == "queued" and job.cancel_requested_at is None]
        order = fair_order(waiting, self.served(), running_per_user(jobs))
        return {job.id: place for place, job in enumerate(order, 1)}

    def _with_positions(self, rows: Sequence[StoredJob]) -> builtins.list[Job]:
        waiting = [row["id"] for row in rows if _waits(row)]
        places = self._queue.places(waiting, self.queue) if waiting else {}
        return [Job(**row, queue_position=places.get(row["id"]) if _waits(row) else None) for row in rows]

    # -- actual state, written by the controller

    def advance(
        self,
        job_id: str,
        epoch: int | None,
        expect: Phase | Sequence[Phase],
        *,
        events: Sequence[JobEvent] = (),
        **changes: Unpack[JobChanges],
    ) -> bool:
        """Change fields of a job that is not over and in one of the phases `expect`; else return False.

        `events` are appended in the same transaction. A new `phase` sets `phase_since`, and a `start_time` counts as
        the user's turn. Raises `LeaseLost`, and TypeError for fields that the controller must not change.
        """
        _require_changeable(changes)
        if "phase" in changes:
            changes.setdefault("phase_since", utcnow())
        phases = (expect,) if isinstance(expect, str) else tuple(expect)
        with self._database.write(durable=False):
            self._lease.require(epoch)
            row = self._database.first(
                JobRow.select(JobRow.last_seq, JobRow.user_id, JobRow.run_id).where(
                    JobRow.id == job_id, JobRow.end_time.is_null(), JobRow.phase.in_(phases)
                ),
                OwnedJob,
            )
            if row is None:
                return False
            if changes:
                self._database.run(JobRow.update(**changes).where(JobRow.id == job_id))
            started = changes.get("start_time")
            if started is not None and row["user_id"] is not None:
                self._database.run(UserRow.update(served_at=started).where(UserRow.id == row["user_id"]))
            if started is not None and row["run_id"] is not None:
                self._start_run(row["run_id"], started)
            append_inside(self._database, job_id, row["last_seq"], events, row["run_id"])
            failpoints.hit(_ADVANCE_BEFORE)
        failpoints.hit(_ADVANCE_AFTER)
        return True

    def update(self, job_id: str, **changes: Unpack[JobChanges]) -> bool:
        """Call `advance` without a lease, from any phase, keeping phase and status in step; for `JobRepository`."""
        if "status" in changes:
            changes["phase"] = "queued" if changes["status"] == "queued" else "testing"
        return self.advance(job_id, None, PHASES, **changes)

    def finish(
        self,
        job_id: str,
        epoch: int | None,
        verdict: Verdict,
        *,
        events: Sequence[JobEvent] = (),
        end_time: dt.datetime | None = None,
        artifacts: Sequence[Artifact] = (),
        more: Mapping[str, object] = MappingProxyType({}),
    ) -> bool:
        """End the job, durably and in one transaction; return False if it is already over.

        The transaction stores the outcome, `artifacts`, `events`, the `complete` event (with the fields `more`) and
        the pending notification (see `pending_notifications`). The contents of `artifacts` must already be durable;
        each has its date of deletion.
        """
        if verdict.status not in TERMINAL_STATUSES:
            raise ValueError(f"{verdict.status} is not a terminal status")
        moment = end_time or utcnow()
        complete = JobEvent(
            "complete",
            success=verdict.success is True,
            timestamp=moment,
            fields={**verdict.complete_fields(), **more},
        )
        with self._database.write():
            self._lease.require(epoch)
            row = self._database.first(
                JobRow.select(JobRow.last_seq, JobRow.run_id).where(
                    JobRow.id == job_id, JobRow.end_time.is_null()
                ),
                OpenJob,
            )
            if row is None:
                return False
            if row["run_id"] is not None:
                self._database.run(
                    RunRow.update(version=RunRow.version + 1).where(RunRow.id == row["run_id"])
                )
            self._database.run(
                JobRow.update(
                    status=verdict.status,
                    success=verdict.success,
                    exit_code=verdict.exit_code,
                    reason=verdict.reason,
                    end_time=moment,
                    phase="finishing",
                    phase_since=moment,
                    building=False,
                ).where(JobRow.id == job_id)
            )
            add_inside(self._database, job_id, artifacts)
            secret_rows.delete_inside(self._database, JobSecretRow, job_id)
            counts = counts_inside(self._database, job_id)
            if counts:
                self._database.run(JobRow.update(counts=counts).where(JobRow.id == job_id))
            append_inside(self._database, job_id, row["last_seq"], [*events, complete], row["run_id"])
            self._database.insert(OutboxRow.insert(job_id=job_id))
            failpoints.hit(_FINISH_BEFORE)
        failpoints.hit(_FINISH_AFTER)
        return True

    def cleaned(self, job_id: str, epoch: int) -> None:
        """Mark the job's container, spool and workspace as removed. Unknown jobs are ignored."""
        with self._database.write(durable=False):
            self._lease.require(epoch)
            self._database.run(
                JobRow.update(cleaned_at=utcnow()).where(
                    JobRow.id == job_id, JobRow.end_time.is_null(False), JobRow.cleaned_at.is_null()
                )
            )

    def pending_notifications(self) -> builtins.list[Job]:
        """Return ended jobs with a pending notification (see `mark_notified`), in the order they ended."""
        waiting = OutboxRow.select(OutboxRow.job_id)
        query = JobRow.select(*JOB_COLUMNS).where(JobRow.id.in_(waiting)).order_by(JobRow.end_time)
        return [Job(**row) for row in self._database.rows(query, StoredJob)]

    def mark_notified(self, job_id: str, epoch: int) -> None:
        """Delete the job's pending notification: every plugin has handled it."""
        with self._database.write(durable=False):
            self._lease.require(epoch)
            self._database.run(OutboxRow.delete().where(OutboxRow.job_id == job_id))

    def delete_of_user(self, user_id: str) -> builtins.list[Job]:
        """Delete the user's jobs that are over, with their events; return them as they were."""
        over = (JobRow.user_id == user_id) & JobRow.end_time.is_null(False)
        with self._database.write():
            query = JobRow.select(*JOB_COLUMNS).where(over)
            jobs = [Job(**row) for row in self._database.rows(query, StoredJob)]
            self._database.run(JobRow.delete().where(over))
        return jobs

    def _start_run(self, run_id: str, moment: dt.datetime) -> None:
        """Start the run with its first job that leaves the queue, and mark the run as changed."""
        self._database.run(
            RunRow.update(
                status="running",
                start_time=peewee.fn.COALESCE(RunRow.start_time, to_micros(moment)),
                version=RunRow.version + 1,
            ).where(RunRow.id == run_id, RunRow.end_time.is_null())
        )

    def _require(self, job_id: str) -> Job:
        """Return the job without its place in the queue, which would take too long under the write lock."""
        row = self._database.first(JobRow.select(*JOB_COLUMNS).where(JobRow.id == job_id), StoredJob)
        if row is None:
            raise NotFound("Job not found", job_id)
        return Job(**row)

    def _require_user(self, user_id: str | None) -> None:
        if user_id is None:
            return
        known = self._database.first(
            UserRow.select(UserRow.id).where(UserRow.id == user_id, UserRow.deleted_at.is_null()), Id
        )
        if known is None:
            raise NotFound("User not found", user_id)


def _waits(row: StoredJob) -> bool:
    return row["end_time"] is None and row["phase"] == "queued" and row["cancel_requested_at"] is None


class _QueueCache:
    """The places of a long queue, for a while: computing them for each request would take all of a processor.

    They may be as old as 20 times the time that it took to compute them, so that it takes at most a twentieth of a
    processor; a short queue is always computed. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: Mapping[str, int] = {}
        self._at = self._cost = -math.inf

    def places(self, wanted: Collection[str], compute: Callable[[], dict[str, int]]) -> Mapping[str, int]:
        """Return job id → place, with the `wanted` jobs, or without those that are too new."""
        with self._lock:
            age = time.monotonic() - self._at
            times = _AGE_OF_PLACES if all(job_id in self._places for job_id in wanted) else _AGE_WITH_MISSING
            if self._cost < _CHEAP or age > times * self._cost:
                began = time.monotonic()
                self._places = compute()
                self._at = time.monotonic()
                self._cost = self._at - began
            return self._places


def insert_inside(
    database: Database, job: Job, *, idempotency_key: str | None = None, body_digest: str | None = None
) -> None:
    """Store a new job, inside a transaction.

    Raises `Conflict` for a known id, or if the run already has a job for the same try.
    """
    values = {name: getattr(job, name) for name in Job.__dataclass_fields__ if name not in _NOT_STORED}
    values |= {"last_seq": 0, "log_bytes": 0, "submitted_at": job.submitted_at or utcnow()}
    try:
        database.insert(JobRow.insert(**values, idempotency_key=idempotency_key, body_digest=body_digest))
    except peewee.IntegrityError as error:
        raise Conflict(f"Job {job.id} already exists") from error
    append_inside(database, job.id, 0, job.events, job.run_id)


def _require_changeable(changes: JobChanges) -> None:
    foreign = sorted(changes.keys() - _CHANGEABLE)
    if foreign or changes.get("status") in TERMINAL_STATUSES:
        raise TypeError(f"advance cannot change {', '.join(foreign) or 'to a terminal status'}")
