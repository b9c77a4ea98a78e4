"""Why jobs wait, besides those before them in the queue."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from msgspec import structs

from ci_runner.model.job import Job, JobSummary, utcnow
from ci_runner.store import Store
from ci_runner.store.lease import LeaseState


def engine_problem(lease: LeaseState) -> str | None:
    """Return what is wrong with the container engine, as the controller stored it; None if it answers."""
    since = lease.engine_silent_since
    if since is None:
        return None
    is_recent = utcnow() - since < dt.timedelta(hours=20)
    return f"does not answer since {since.strftime('%H:%M' if is_recent else '%Y-%m-%d %H:%M')} UTC"


def reason_to_wait(store: Store) -> str | None:
    """Return why no waiting job starts, for users; None if only others are before it."""
    problem = engine_problem(store.lease.read())
    return None if problem is None else f"the container engine {problem}"


def summaries(store: Store, jobs: Sequence[Job]) -> list[JobSummary]:
    """Return the summaries of jobs, with the reason why waiting ones do not start."""
    result = [job.summary() for job in jobs]
    if not any(item.status == "queued" for item in result):
        return result
    reason = reason_to_wait(store)
    if reason is None:
        return result
    return [structs.replace(item, detail=reason) if item.status == "queued" else item for item in result]
