"""Figures about all jobs, for metrics: how many are open, and what became of those that ended."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from peewee import fn

from ci_runner.store.database import Database
from ci_runner.store.rows import EndedJob, OpenCount, StoredTiming
from ci_runner.store.schema import EventRow, JobRow
from pytest_remote_ci.wire.protocol import Phase, Status
from pytest_remote_ci.wire.timing import Timing

#: Ids per statement; SQLite before 3.32 takes at most 999 parameters.
_IDS: Final = 300


@dataclass(frozen=True)
class OpenJobs:
    """The jobs that are not over."""

    by_phase: Mapping[Phase, int] = field(default_factory=dict)
    #: Of those that are being prepared: how many have an environment built.
    building: int = 0
    #: When the first of the waiting ones was submitted.
    oldest_waiting: dt.datetime | None = None


@dataclass(frozen=True)
class Ended:
    """A job that is over."""

    id: str
    status: Status
    success: bool | None
    submitted_at: dt.datetime
    start_time: dt.datetime | None
    end_time: dt.datetime
    timing: Timing


class Statistics:
    """Figures about jobs (`store.statistics`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open_jobs(self) -> OpenJobs:
        """Return how many jobs are in each phase."""
        open_rows = JobRow.end_time.is_null()
        number = fn.COUNT(JobRow.id).alias("number")
        oldest = fn.MIN(JobRow.submitted_at).alias("submitted_at")
        query = JobRow.select(JobRow.phase, JobRow.building, number, oldest).where(open_rows)
        rows = self._database.rows(query.group_by(JobRow.phase, JobRow.building), OpenCount)
        found: dict[Phase, int] = {}
        for row in rows:
            found[row["phase"]] = found.get(row["phase"], 0) + row["number"]
        waiting = [row["submitted_at"] for row in rows if row["phase"] == "queued"]
        building = sum(row["number"] for row in rows if row["building"])
        return OpenJobs(found, building, min(waiting, default=None))

    def ended_since(self, moment: dt.datetime, limit: int) -> list[Ended]:
        """Return the first jobs, at most `limit`, that ended at `moment` or later, in that order."""
        columns = (
            JobRow.id,
            JobRow.status,
            JobRow.success,
            JobRow.submitted_at,
            JobRow.start_time,
            JobRow.end_time,
        )
        query = JobRow.select(*columns).where(JobRow.end_time.is_null(False), JobRow.end_time >= moment)
        rows = self._database.rows(query.order_by(JobRow.end_time, JobRow.id).limit(limit), EndedJob)
        timings = self._timings([row["id"] for row in rows])
        found = []
        for row in rows:
            if row["end_time"] is not None:  # as the query asks for
                end = row["end_time"]
                timing = timings.get(row["id"], Timing())
                found.append(
                    Ended(
                        row["id"],
                        row["status"],
                        row["success"],
                        row["submitted_at"],
                        row["start_time"],
                        end,
                        timing,
                    )
                )
        return found

    def _timings(self, job_ids: Sequence[str]) -> dict[str, Timing]:
        """Return the timings in the last events of jobs."""
        found: dict[str, Timing] = {}
        for start in range(0, len(job_ids), _IDS):
            query = EventRow.select(EventRow.job_id, EventRow.body).where(
                EventRow.job_id.in_(job_ids[start : start + _IDS]), EventRow.type == "complete"
            )
            for row in self._database.rows(query, StoredTiming):
                fields = json.loads(row["body"]).get("fields", {})
                found[row["job_id"]] = Timing.parse(fields.get("timing")) or Timing()
        return found
