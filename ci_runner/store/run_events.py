"""A run's feed: the events of all its jobs, and of the run itself, in one order with their own numbers.

A row stands for several events of one job; their bodies are in the job's events. So one number is enough to resume
the stream of a whole run, with any number of jobs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import peewee

from ci_runner.model.job import JobEvent
from ci_runner.store.database import Database
from ci_runner.store.events import Events
from ci_runner.store.rows import FeedEntry
from ci_runner.store.schema import FeedRow, JobRow


@dataclass(frozen=True)
class FeedItem:
    """One event of a run."""

    #: Number in the run, from 1; pruned logs leave gaps.
    seq: int
    event: JobEvent
    #: The event's job and its name in the plan; None for the run's own events.
    job_id: str | None = None
    planned: str | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the JSON for clients: the job's event, with the job's name and id."""
        tag = {} if self.job_id is None else {"job": self.planned, "job_id": self.job_id}
        return {**self.event.to_dict(), **tag}


class Feed:
    """Stored feeds of runs (`store.feed`)."""

    def __init__(self, database: Database, events: Events) -> None:
        self._database = database
        self._events = events

    def after(self, run_id: str, seq: int, limit: int = 500, max_bytes: int = 1 << 20) -> list[FeedItem]:
        """Return events numbered above `seq`, in order: at most about `limit`, and about `max_bytes`.

        Empty only if there are none.
        """
        found: list[FeedItem] = []
        while not found:
            rows = self._rows(run_id, seq, limit)
            if not rows:
                return []
            left = max_bytes
            for row in rows:
                items = self._items(row, seq, limit - len(found), left)
                found += items
                left -= sum(len(item.event.data or "") + 100 for item in items)
                last = row["seq"] + row["number"] - 1
                if left <= 0 or len(found) >= limit or (items and items[-1].seq < last):
                    break
                seq = max(seq, last)
        return found

    def _rows(self, run_id: str, seq: int, limit: int) -> list[FeedEntry]:
        """Return the rows with events above `seq`; the first row may begin before `seq`."""
        query = (
            FeedRow.select(FeedRow, JobRow.planned)
            .join(JobRow, peewee.JOIN.LEFT_OUTER, on=(JobRow.id == FeedRow.job_id))
            .where(FeedRow.run_id == run_id, FeedRow.seq > seq)
            .order_by(FeedRow.seq)
            .limit(limit)
        )
        rows = self._database.rows(query, FeedEntry)
        before = (
            FeedRow.select(FeedRow, JobRow.planned)
            .join(JobRow, peewee.JOIN.LEFT_OUTER, on=(JobRow.id == FeedRow.job_id))
            .where(FeedRow.run_id == run_id, FeedRow.seq <= seq)
            .order_by(FeedRow.seq.desc())
        )
        first = self._database.first(before, FeedEntry)
        return [first, *rows] if first and first["seq"] + first["number"] - 1 > seq else rows

    def _items(self, row: FeedEntry, seq: int, limit: int, max_bytes: int) -> list[FeedItem]:
        if row["body"] is not None:
            body = json.loads(row["body"])
            event = JobEvent(
                body.pop("type"), success=body.pop("success", None), timestamp=row["at"], fields=body
            )
            return [FeedItem(row["seq"], event)]
        job_id = row["job_id"]
        assert job_id is not None, "an entry without a body stands for events of a job"
        offset = row["first"] - row["seq"]
        begin = max(seq, row["seq"] - 1) + offset
        last = row["seq"] + row["number"] - 1 + offset
        events = self._events.after(job_id, begin, min(limit, last - begin), max(1, max_bytes))
        return [
            FeedItem(event.seq - offset, event, job_id, row["planned"])
            for event in events
            if event.seq <= last
        ]
