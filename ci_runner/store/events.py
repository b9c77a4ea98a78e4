"""Events: numbered per job without gaps, stored together with the spool's offsets, read in bounded pieces.

The number is taken from the job's row inside the transaction, so the order of commits is the order of numbers.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

from ci_runner import failpoints
from ci_runner.errors import Conflict, NotFound
from ci_runner.model.job import JobEvent, ParsedFields, format_time, utcnow
from ci_runner.store import test_results
from ci_runner.store.database import Database
from ci_runner.store.lease import Lease
from ci_runner.store.rows import Id, JobEnd, LastSeq, StoredSpool
from ci_runner.store.schema import (
    EventRow,
    FeedRow,
    JobRow,
    RunRow,
    SpoolRow,
    from_micros,
    to_json,
    to_micros,
)

_BEFORE = failpoints.register("store.events.append.before", "events and offsets written, not committed")
_AFTER = failpoints.register("store.events.append.after", "events and offsets committed")

#: Jobs per transaction while logs are pruned, so that other writers do not wait long for the lock.
_PRUNED_JOBS: Final = 50
#: The beginning of the body of an event that has fields.
_FIELDS: Final = '{"fields":{'


@dataclass(frozen=True)
class SpoolPosition:
    """How many bytes of an attempt's spool files are stored as events."""

    frames: int = 0
    stdout: int = 0
    stderr: int = 0
    records: int = 0
    terminal: int = 0


@dataclass(frozen=True)
class Sendable:
    """An event in the form sent to clients."""

    seq: int
    type: str
    #: One line of JSON in ASCII.
    text: str


class _StoredEvent(NamedTuple):
    seq: int
    type: str
    at: int
    body: str


class Events:
    """Stored events (`store.events`)."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease

    def append(
        self,
        job_id: str,
        epoch: int,
        events: Sequence[JobEvent],
        *,
        spool: SpoolPosition | None = None,
        attempt: int = 0,
        expected: SpoolPosition | None = None,
    ) -> int:
        """Append `events` with the new `spool` position of `attempt`; return the job's newest number.

        Writes nothing if the job is over. If `expected` is given and differs from the attempt's stored position,
        these bytes were already stored: raises `Conflict`, and the writer must read `position` and continue from
        there. So every byte becomes an event exactly once. Events without a timestamp get the current time. Raises
        `NotFound` and `LeaseLost`.
        """
        with self._database.write(durable=False):
            self._lease.require(epoch)
            job = _require_job(self._database, job_id)
            if job["end_time"] is not None:
                return job["last_seq"]
            if expected is not None and self.position(job_id, attempt) != expected:
                raise Conflict("These bytes of the attempt's output are stored already")
            newest = append_inside(self._database, job_id, job["last_seq"], events, job["run_id"])
            test_results.add_inside(self._database, job_id, events)
            if spool is not None:
                self._move(job_id, attempt, spool)
            failpoints.hit(_BEFORE)
        failpoints.hit(_AFTER)
        return newest

    def add(self, job_id: str, event: JobEvent) -> int:
        """Append one event, durably and without a lease; return its number.

        Raises `NotFound`, and `Conflict` if the job is over.
        """
        with self._database.write():
            job = _require_job(self._database, job_id)
            if job["end_time"] is not None:
                raise Conflict("Job has ended and accepts no more events")
            return append_inside(self._database, job_id, job["last_seq"], [event], job["run_id"])

    def position(self, job_id: str, attempt: int) -> SpoolPosition:
        """Return how far the attempt's spool is stored; zero if it was never read."""
        row = self._database.first(
            SpoolRow.select().where(SpoolRow.job_id == job_id, SpoolRow.attempt == attempt), StoredSpool
        )
        return (
            SpoolPosition(row["frames"], row["stdout"], row["stderr"], row["records"], row["terminal"])
            if row
            else SpoolPosition()
        )

    def _move(self, job_id: str, attempt: int, spool: SpoolPosition) -> None:
        offsets = asdict(spool)
        moved = self._database.run(
            SpoolRow.update(**offsets).where(SpoolRow.job_id == job_id, SpoolRow.attempt == attempt)
        )
        if not moved:
            self._database.insert(SpoolRow.insert(job_id=job_id, attempt=attempt, **offsets))

    def after(self, job_id: str, seq: int, limit: int = 500, max_bytes: int = 1 << 20) -> list[JobEvent]:
        """Return events numbered above `seq`, in order: at most `limit`, and about `max_bytes` of JSON.

        Empty only if there are none; an unknown job has none. The event that reaches `max_bytes` is the last.
        """
        return [_from_row(*row) for row in self._rows(job_id, seq, limit, max_bytes)]

    def _rows(self, job_id: str, seq: int, limit: int, max_bytes: int) -> list[_StoredEvent]:
        query = (
            EventRow.select(EventRow.seq, EventRow.type, EventRow.at, EventRow.body)
            .where(EventRow.job_id == job_id, EventRow.seq > seq)
            .order_by(EventRow.seq)
            .limit(limit)
        )
        found: list[_StoredEvent] = []
        size = 0
        with contextlib.closing(self._database.stream(query, _StoredEvent._make)) as rows:
            for row in rows:
                found.append(row)
                size += len(row.body)
                if size >= max_bytes:
                    break
        return found

    def sendable(self, job_id: str, seq: int, limit: int = 500, max_bytes: int = 1 << 20) -> list[Sendable]:
        """Return the events of `after` in the form sent to clients."""
        return [
            Sendable(number, kind, _text(number, kind, at, body))
            for number, kind, at, body in self._rows(job_id, seq, limit, max_bytes)
        ]

    def prune(self, older_than: dt.datetime) -> int:
        """Delete log events of jobs that were over before `older_than`; return how many events were deleted.

        The other events stay, so the outcome of a job remains known.
        """
        pruned = 0
        while True:
            ended = JobRow.select(JobRow.id).where(JobRow.end_time < older_than, JobRow.log_bytes > 0)
            ids = [row["id"] for row in self._database.rows(ended.limit(_PRUNED_JOBS), Id)]
            if not ids:
                return pruned
            with self._database.write(durable=False):
                pruned += self._database.run(
                    EventRow.delete().where(EventRow.job_id.in_(ids), EventRow.type == "log")
                )
                self._database.run(JobRow.update(log_bytes=0).where(JobRow.id.in_(ids)))


def append_inside(
    database: Database, job_id: str, last_seq: int, events: Sequence[JobEvent], run_id: str | None
) -> int:
    """Store `events` inside a transaction that has read `last_seq`; return the job's newest number.

    `run_id`: the run that has the events in its feed as well.
    """
    if not events:
        return last_seq
    now = utcnow()
    rows = [
        (job_id, seq, event.type, to_micros(event.timestamp or now), _body(event))
        for seq, event in enumerate(events, last_seq + 1)
    ]
    text_bytes = sum(
        len(event.data.encode("utf-8", "surrogatepass")) for event in events if _is_log(event) and event.data
    )
    newest = last_seq + len(events)
    database.run(
        JobRow.update(last_seq=newest, log_bytes=JobRow.log_bytes + text_bytes).where(JobRow.id == job_id)
    )
    database.insert_rows(EventRow, rows)
    if run_id is not None:
        feed_inside(database, run_id, len(events), now, job_id=job_id, first=last_seq + 1)
    return newest


def feed_inside(
    database: Database,
    run_id: str,
    number: int,
    now: dt.datetime,
    *,
    job_id: str | None = None,
    first: int = 0,
    body: Mapping[str, object] | None = None,
) -> None:
    """Add `number` events of a job, or one event of the run itself, to the run's feed, inside a transaction."""
    database.run(RunRow.update(last_seq=RunRow.last_seq + number).where(RunRow.id == run_id))
    row = database.first(RunRow.select(RunRow.last_seq).where(RunRow.id == run_id), LastSeq)
    if row is None:
        return
    database.insert(
        FeedRow.insert(
            run_id=run_id,
            seq=row["last_seq"] - number + 1,
            number=number,
            job_id=job_id,
            first=first,
            at=now,
            body=None if body is None else to_json(body),
        )
    )


def _require_job(database: Database, job_id: str) -> JobEnd:
    job = database.first(
        JobRow.select(JobRow.last_seq, JobRow.end_time, JobRow.run_id).where(JobRow.id == job_id), JobEnd
    )
    if job is None:
        raise NotFound("Job not found", job_id)
    return job


def _is_log(event: JobEvent) -> bool:
    return event.type == "log"


def _body(event: JobEvent) -> str:
    if (
        isinstance(event.fields, ParsedFields)
        and event.fields.text
        and event.data is None
        and event.success is None
    ):
        return f"{_FIELDS[:-1]}{event.fields.text}}}"
    body: dict[str, object] = {"fields": dict(event.fields)} if event.fields else {}
    if event.data is not None:
        body["data"] = event.data
    if event.success is not None:
        body["success"] = event.success
    return to_json(body)


def _from_row(seq: int, kind: str, at: int, body: str) -> JobEvent:
    values = json.loads(body)
    return JobEvent(
        kind, values.get("data"), values.get("success"), from_micros(at), seq, values.get("fields", {})
    )


def _text(seq: int, kind: str, at: int, body: str) -> str:
    """Return `JobEvent.to_dict` as JSON.

    Most events have only fields; these are already JSON and are copied unparsed.
    """
    if body.startswith(_FIELDS) and body.endswith("}}"):  # a text or a success would follow the fields
        timestamp = format_time(from_micros(at))
        return f'{{"type":{json.dumps(kind)},{body[len(_FIELDS) : -2]},"timestamp":"{timestamp}"}}'
    return json.dumps(_from_row(seq, kind, at, body).to_dict())
