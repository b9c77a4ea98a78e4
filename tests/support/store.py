"""A store on a real file, with users and jobs in it: for the tests of the store."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from ci_runner.model.job import Job, JobEvent, User
from ci_runner.store import Store

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
LOG = JobEvent("log", "hello\n", fields={"stream": "stdout"})


def at(second: float) -> dt.datetime:
    """So many seconds after noon."""
    return NOON + dt.timedelta(seconds=second)


def add_user(store: Store, name: str = "ann") -> User:
    """A user whose id is the name."""
    return store.users.create(User(name, name.title(), f"{name}@example.org", NOON))


def add_job(store: Store, user: str | None = None, **fields: Any) -> Job:
    """A waiting job, unless `fields` say otherwise."""
    return store.jobs.create(Job(str(uuid.uuid4()), user_id=user, **fields))


def reread(store: Store, job: Job) -> Job:
    """The job as it is stored now."""
    found = store.jobs.get(job.id)
    assert found is not None
    return found
