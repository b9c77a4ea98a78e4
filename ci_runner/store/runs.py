"""Runs of pipelines: the requested state (submission, cancellation) and the actual state (by the controller only).

`advance` writes a whole step of a run in one transaction, and only if nothing has changed since its rows were read
(`version`): new jobs, dropped jobs, requests to end, the run's own end. So wherever a controller dies, a job is made
only once, and never before the jobs that it needs are over.
"""

from __future__ import annotations

import builtins
import datetime as dt
import json
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

import peewee

from ci_runner import failpoints
from ci_runner.errors import Conflict, NotFound
from ci_runner.model.job import Job, utcnow
from ci_runner.model.verdict import Verdict
from ci_runner.pipelines.plan import Plan
from ci_runner.pipelines.run import PlannedState, Run
from ci_runner.pipelines.scheduler import Drop, Facts, Step, StopIntent
from ci_runner.store import secrets as secret_rows
from ci_runner.store.database import Database
from ci_runner.store.events import feed_inside
from ci_runner.store.jobs import JOB_COLUMNS, insert_inside
from ci_runner.store.lease import Lease
from ci_runner.store.rows import FirstSubmission, Id, Newest, RunState, StoredJob, StoredRun
from ci_runner.store.schema import JobRow, RunJobRow, RunRow, RunSecretRow, UserRow, from_micros
from pytest_remote_ci.wire.protocol import Phase, Status

_CREATE_BEFORE = failpoints.register("store.runs.create.before", "run written, not committed")
_CREATE_AFTER = failpoints.register("store.runs.create.after", "run committed, not yet answered")
_ADVANCE_BEFORE = failpoints.register("store.runs.advance.before", "a run's step written, not committed")
_ADVANCE_AFTER = failpoints.register("store.runs.advance.after", "a run's step committed")

_COLUMNS: Final = tuple(getattr(RunRow, name) for name in Run.__dataclass_fields__)
_PAGE: Final = 1000
_IDS: Final = 300
_FACTS: Final = """
SELECT r.name, r.job_id, r.retry, r.dropped, r.cancelled_by, r.reused,
       j.status, j.phase, j.success, j.exit_code, j.reason, j.cancel_requested_at, j.cancelled_by,
       CASE WHEN r.reused THEN NULL WHEN r.retry = 0 THEN j.start_time ELSE
         (SELECT MIN(e.start_time) FROM jobs e WHERE e.run_id = r.run_id AND e.planned = r.name) END
FROM run_jobs r LEFT JOIN jobs j ON j.id = r.job_id WHERE r.run_id = ? ORDER BY r.position
"""
#: Number of runs from which usual durations are computed.
_PAST_RUNS: Final = 10
_DURATIONS: Final = """
SELECT j.planned, j.start_time, j.end_time FROM jobs j WHERE j.success AND j.start_time IS NOT NULL AND j.run_id IN
  (SELECT id FROM runs WHERE user_id = ? AND pipeline = ? ORDER BY number DESC LIMIT ?)
"""


class _Planned(NamedTuple):
    """A row of `_FACTS`."""

    name: str
    job_id: str | None
    retry: int
    dropped: str | None
    cancelled_by: str | None
    reused: int
    status: Status | None
    phase: Phase | None
    success: int | None
    exit_code: int | None
    reason: str | None
    cancel_requested_at: int | None
    halted_by: str | None
    started: int | None


class _Past(NamedTuple):
    """A row of `_DURATIONS`."""

    name: str
    began: int
    ended: int


class _RunFields(RunState):
    plan: Plan


class _Open(NamedTuple):
    id: str
    version: int


class Runs:
    """Stored runs (`store.runs`)."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease

    # -- requested state

    def create(
        self,
        run: Run,
        *,
        secrets: Mapping[str, str] | None = None,
        reuse: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        body_digest: str | None = None,
    ) -> Run:
        """Store a new run, durably, with the next number of its pipeline and user; return it as stored.

        `reuse`: planned name → id of the job with the result to reuse. For an `idempotency_key` that was used before,
        returns the first run if `body_digest` is the same, else raises `Conflict`. An unknown user raises `NotFound`.
        """
        with self._database.write():
            first = self._first_with(run.user_id, idempotency_key)
            if first is not None and first["body_digest"] != body_digest:
                raise Conflict("This Idempotency-Key was used for another submission")
            if first is not None:
                return self._require(first["id"])
            self._require_user(run.user_id)
            number = RunRow.select(peewee.fn.COALESCE(peewee.fn.MAX(RunRow.number), 0) + 1).where(
                RunRow.user_id == run.user_id, RunRow.pipeline == run.pipeline
            )
            self._database.insert(
                RunRow.insert(
                    id=run.id,
                    user_id=run.user_id,
                    pipeline=run.pipeline,
                    number=self._database.integer(number),
                    plan=json.dumps(run.plan.to_dict(), separators=(",", ":")),
                    workspace=run.workspace,
                    options=run.options,
                    status="queued",
                    submitted_at=run.submitted_at or utcnow(),
                    rerun_of=run.rerun_of,
                    version=1,
                    last_seq=0,
                    idempotency_key=idempotency_key,
                    body_digest=body_digest,
                )
            )
            for position, planned in enumerate(run.plan.jobs):
                old = (reuse or {}).get(planned.name)
                self._database.insert(
                    RunJobRow.insert(
                        run_id=run.id,
                        name=planned.name,
                        position=position,
                        stage=planned.stage,
                        job_id=old,
                        retry=0,
                        reused=old is not None,
                    )
                )
            secret_rows.add_inside(self._database, RunSecretRow, run.id, secrets or {})
            failpoints.hit(_CREATE_BEFORE)
        failpoints.hit(_CREATE_AFTER)
        return self._require(run.id)

    def request_cancel(
        self, run_id: str, by: str, *, stage: str | None = None, job: str | None = None
    ) -> Run:
        """Request the end of the run, or of one of its stages or planned jobs; the controller carries it out.

        Repeated calls change nothing. A run that is over but was not cancelled raises `Conflict`; an unknown run,
        stage or job raises `NotFound`.
        """
        with self._database.write():
            run = self._require(run_id)
            if run.is_over and run.status != "cancelled":
                raise Conflict(f"Run is already {run.status}")
            if run.is_over:
                return run
            if stage is None and job is None:
                self._database.run(
                    RunRow.update(
                        cancel_requested_at=utcnow(), cancelled_by=by, version=RunRow.version + 1
                    ).where(RunRow.id == run_id, RunRow.cancel_requested_at.is_null())
                )
                return self._require(run_id)
            names = [
                planned.name
                for planned in run.plan.jobs
                if (stage is None or planned.stage == stage)
                and job in (None, planned.name, planned.definition)
            ]
            if not names:
                what, name = ("job", job) if job is not None else ("stage", stage)
                raise NotFound(f"Run {run_id} has no such {what}", name)
            for name in names:
                self._database.run(
                    RunJobRow.update(cancelled_by=by).where(
                        RunJobRow.run_id == run_id, RunJobRow.name == name, RunJobRow.cancelled_by.is_null()
                    )
                )
            self._database.run(RunRow.update(version=RunRow.version + 1).where(RunRow.id == run_id))
            return self._require(run_id)

    # -- reading

    def get(self, run_id: str, user_id: str | None = None) -> Run | None:
        """Return the run, or None if it does not exist (or is not that user's)."""
        query = RunRow.select(*_COLUMNS).where(RunRow.id == run_id)
        if user_id is not None:
            query = query.where(RunRow.user_id == user_id)
        row = self._database.first(query, StoredRun)
        return _run(row) if row else None

    def refreshed(self, run: Run) -> Run | None:
        """Return the run's present state without reading its plan again, which never changes."""
        columns = [column for column in _COLUMNS if column is not RunRow.plan]
        row = self._database.first(RunRow.select(*columns).where(RunRow.id == run.id), RunState)
        return Run(**row, plan=run.plan) if row else None

    def by_number(self, user_id: str, pipeline: str, number: int) -> Run | None:
        """Return the user's run with that number, or None."""
        row = self._database.first(
            RunRow.select(*_COLUMNS).where(
                RunRow.user_id == user_id, RunRow.pipeline == pipeline, RunRow.number == number
            ),
            StoredRun,
        )
        return _run(row) if row else None

    def list(
        self,
        user_id: str,
        *,
        pipeline: str | None = None,
        status: Status | None = None,
        since: dt.datetime | None = None,
        limit: int = _PAGE,
        before: str | None = None,
    ) -> builtins.list[Run]:
        """Return the user's runs, newest submission first, at most `limit` (never more than 1,000).

        `before`: a run's id; returns the page after that run (`NotFound` if it is unknown).
        """
        select = RunRow.select(*_COLUMNS).where(RunRow.user_id == user_id)
        if pipeline is not None:
            select = select.where(RunRow.pipeline == pipeline)
        if status is not None:
            select = select.where(RunRow.status == status)
        if since is not None:
            select = select.where(RunRow.submitted_at >= since)
        if before is not None:
            last = self.get(before, user_id)
            if last is None:
                raise NotFound("Run not found", before)
            select = select.where(
                (RunRow.submitted_at < last.submitted_at)
                | ((RunRow.submitted_at == last.submitted_at) & (RunRow.id < before))
            )
        select = select.order_by(RunRow.submitted_at.desc(), RunRow.id.desc())
        rows = self._database.rows(select.limit(max(0, min(limit, _PAGE))), StoredRun)
        return [_run(row) for row in rows]

    def facts(self, run_id: str) -> dict[str, Facts]:
        """Return the state of each job of the run's plan, in the plan's order."""
        return {row.name: _facts(row) for row in self._planned(run_id)}

    def states(self, run: Run) -> builtins.list[PlannedState]:
        """Return the jobs of the plan, with the newest job made for each."""
        rows = self._planned(run.id)
        jobs = self._jobs_by_id([row.job_id for row in rows if row.job_id is not None])
        planned = {job.name: job for job in run.plan.jobs}
        past = self.durations(run.user_id, run.pipeline)
        return [
            PlannedState(
                planned[row.name],
                _facts(row),
                None if row.job_id is None else jobs.get(row.job_id),
                bool(row.reused),
                past.get(row.name),
            )
            for row in rows
        ]

    def _planned(self, run_id: str) -> builtins.list[_Planned]:
        return [_Planned._make(row) for row in self._database.sql(_FACTS, (run_id,))]

    def durations(self, user_id: str, pipeline: str) -> dict[str, float]:
        """Return planned name → median seconds of its good jobs in the newest runs of the user's pipeline."""
        found: dict[str, builtins.list[float]] = {}
        for row in map(_Past._make, self._database.sql(_DURATIONS, (user_id, pipeline, _PAST_RUNS))):
            found.setdefault(row.name, []).append((row.ended - row.began) / 1e6)
        return {name: round(statistics.median(seconds), 3) for name, seconds in found.items()}

    def executions(self, run_id: str) -> builtins.list[Job]:
        """Return all jobs made for the run, oldest first."""
        query = JobRow.select(*JOB_COLUMNS).where(JobRow.run_id == run_id)
        query = query.order_by(JobRow.submitted_at, JobRow.retry)
        return [Job(**row) for row in self._database.rows(query, StoredJob)]

    def newest(self, run_ids: Collection[str]) -> dict[str, int]:
        """Return run id → number of the newest entry of its feed; unknown ids are missing."""
        found: dict[str, int] = {}
        wanted = sorted(run_ids)
        for start in range(0, len(wanted), _IDS):
            query = RunRow.select(RunRow.id, RunRow.last_seq).where(
                RunRow.id.in_(wanted[start : start + _IDS])
            )
            found.update({row["id"]: row["last_seq"] for row in self._database.rows(query, Newest)})
        return found

    def open_versions(self) -> dict[str, int]:
        """Return id → version of each run that is not over, oldest first: cheap enough for every tick."""
        rows = self._database.sql(
            "SELECT id, version FROM runs WHERE end_time IS NULL ORDER BY submitted_at, id"
        )
        return {run.id: run.version for run in map(_Open._make, rows)}

    def open_workspaces(self) -> set[str]:
        """Return digests of the workspaces of runs that are not over."""
        return {
            str(row[0]) for row in self._database.sql("SELECT workspace FROM runs WHERE end_time IS NULL")
        }

    def secrets(self, run_id: str) -> dict[str, str]:
        """Return the values of the run's secrets; empty once it is over. Raises `SecretsUnreadable`."""
        return secret_rows.read(self._database, RunSecretRow, run_id)

    # -- actual state, written by the controller

    def advance(
        self,
        run_id: str,
        epoch: int,
        version: int,
        step: Step,
        jobs: Sequence[Job] = (),
        *,
        stop_intent: StopIntent | None = None,
    ) -> bool:
        """Write a step, durably; if the run has changed since it was read, write nothing and return False.

        `jobs`: those of `step.starts`. Raises `LeaseLost`.
        """
        now = utcnow()
        with self._database.write():
            self._lease.require(epoch)
            changed = self._database.run(
                RunRow.update(
                    version=RunRow.version + 1,
                    stop_intent=peewee.fn.COALESCE(RunRow.stop_intent, stop_intent),
                ).where(RunRow.id == run_id, RunRow.version == version, RunRow.end_time.is_null())
            )
            if not changed:
                return False
            for job in jobs:
                self._start(run_id, job, now)
            for drop in step.drops:
                self._drop(run_id, drop, now)
            for halt in step.halts:
                waiting = (JobRow.phase == "queued",) if halt.waiting_only else ()
                self._database.run(
                    JobRow.update(cancel_requested_at=now, cancelled_by=halt.by).where(
                        JobRow.id == halt.job_id,
                        JobRow.end_time.is_null(),
                        JobRow.cancel_requested_at.is_null(),
                        *waiting,
                    )
                )
            if step.outcome is not None:
                self._end(run_id, step.outcome, now)
            failpoints.hit(_ADVANCE_BEFORE)
        failpoints.hit(_ADVANCE_AFTER)
        return True

    def _start(self, run_id: str, job: Job, now: dt.datetime) -> None:
        insert_inside(self._database, job)
        self._database.run(
            RunJobRow.update(job_id=job.id, retry=job.retry, reused=False).where(
                RunJobRow.run_id == run_id, RunJobRow.name == job.planned
            )
        )
        body = {
            "type": "run_job",
            "job": job.planned,
            "job_id": job.id,
            "retry": job.retry,
            "status": "queued",
        }
        feed_inside(self._database, run_id, 1, now, body=body)

    def _drop(self, run_id: str, drop: Drop, now: dt.datetime) -> None:
        self._database.run(
            RunJobRow.update(dropped=drop.reason).where(
                RunJobRow.run_id == run_id, RunJobRow.name == drop.name
            )
        )
        body = {"type": "run_job", "job": drop.name, "status": "cancelled", "reason": drop.reason}
        feed_inside(self._database, run_id, 1, now, body=body)

    def _end(self, run_id: str, outcome: Verdict, now: dt.datetime) -> None:
        self._database.run(
            RunRow.update(
                status=outcome.status, success=outcome.success, reason=outcome.reason, end_time=now
            ).where(RunRow.id == run_id)
        )
        secret_rows.delete_inside(self._database, RunSecretRow, run_id)
        body = {
            "type": "run_complete",
            "run_id": run_id,
            "status": outcome.status,
            "success": outcome.success is True,
            "reason": outcome.reason,
        }
        feed_inside(self._database, run_id, 1, now, body=body)

    # -- helpers

    def _first_with(self, user_id: str, idempotency_key: str | None) -> FirstSubmission | None:
        if idempotency_key is None:
            return None
        return self._database.first(
            RunRow.select(RunRow.id, RunRow.body_digest).where(
                RunRow.user_id == user_id, RunRow.idempotency_key == idempotency_key
            ),
            FirstSubmission,
        )

    def _jobs_by_id(self, job_ids: Sequence[str]) -> dict[str, Job]:
        found: dict[str, Job] = {}
        for start in range(0, len(job_ids), _IDS):
            query = JobRow.select(*JOB_COLUMNS).where(JobRow.id.in_(job_ids[start : start + _IDS]))
            found.update({row["id"]: Job(**row) for row in self._database.rows(query, StoredJob)})
        return found

    def _require(self, run_id: str) -> Run:
        run = self.get(run_id)
        if run is None:
            raise NotFound("Run not found", run_id)
        return run

    def _require_user(self, user_id: str) -> None:
        known = UserRow.select(UserRow.id).where(UserRow.id == user_id, UserRow.deleted_at.is_null())
        if self._database.first(known, Id) is None:
            raise NotFound("User not found", user_id)


def _run(row: StoredRun) -> Run:
    fields: _RunFields = {**row, "plan": Plan.from_dict(json.loads(row["plan"]))}
    return Run(**fields)


def _facts(row: _Planned) -> Facts:
    status, dropped = row.status, row.dropped
    if row.job_id is not None and status is None:  # deleted with its user
        status, dropped = "cancelled", dropped or "its job was deleted"
    return Facts(
        job_id=row.job_id,
        retry=row.retry,
        status=status or "queued",
        phase=row.phase or "queued",
        success=None if row.success is None else bool(row.success),
        exit_code=row.exit_code,
        reason=row.reason,
        cancelling=row.cancel_requested_at is not None,
        dropped=dropped,
        cancelled_by=row.cancelled_by,
        halted_by=row.halted_by,
        started=None if row.started is None else from_micros(row.started),
    )
