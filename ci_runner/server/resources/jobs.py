"""Jobs for their owners: lists, summaries, event streams, cancelling. Pages of events: `event_pages`.

The owner is known from the key alone, and is part of every query. Another user's job gives 403, as in the reference
system: ids are random, so this reveals only that an id exists.
"""

from __future__ import annotations

import datetime as dt
from typing import TypedDict

import falcon
import msgspec
from msgspec import UNSET, UnsetType, structs

from ci_runner.errors import AccessDenied, NotFound
from ci_runner.model import job as model
from ci_runner.model.job import Job, JobTiming
from ci_runner.server import parameters
from ci_runner.server.http.auth import caller_of
from ci_runner.server.resources.paging import link_next_page
from ci_runner.server.resources.waiting import summaries
from ci_runner.server.streams.job_source import JobSource, already_completed
from ci_runner.server.streams.sse_response import StreamResponder, cursor_of
from ci_runner.store import Store
from ci_runner.store.job_repository import JobRepository
from pytest_remote_ci.wire.protocol import Status


def own_job(repository: JobRepository, req: falcon.Request, job_id: str) -> Job:
    """Return the caller's job; raises `AccessDenied` if it is another user's, and `NotFound`."""
    job = repository.get_job(job_id, caller_of(req).user.id, events=False)
    if job is None:
        if repository.get_job(job_id, events=False) is not None:
            raise AccessDenied("Access denied")
        raise NotFound("Job not found", job_id)
    return job


class _Filters(TypedDict):
    """Which jobs are listed."""

    status: Status | None
    since: dt.datetime | None
    query: str | None


class JobList:
    """`GET /jobs`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send the caller's own jobs, newest submission first."""
        user_id = caller_of(req).user.id
        limit = parameters.JOBS_LIMIT.read(req)
        wanted = self._wanted(req)
        jobs = self._store.list_jobs(user_id, limit=limit, before=parameters.BEFORE.text(req), **wanted)
        resp.media = summaries(self._store, jobs)
        if len(jobs) == limit and self._store.list_jobs(user_id, limit=1, before=jobs[-1].id, **wanted):
            link_next_page(req, resp, parameters.JOBS, jobs[-1].id)

    @staticmethod
    def _wanted(req: falcon.Request) -> _Filters:
        return {
            "status": parameters.STATUS.given(req),
            "since": parameters.SINCE.given(req),
            "query": parameters.JOB_QUERY.text(req),
        }


class JobSummary:
    """`GET` and `DELETE /jobs/{job_id}`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        """Send the job's summary; with its timing, if it is over."""
        job = own_job(self._store, req, job_id)
        resp.media = structs.replace(self._summary(job), timing=self._timing(job))

    def _summary(self, job: Job) -> model.JobSummary:
        return summaries(self._store, [job])[0]

    def _timing(self, job: Job) -> JobTiming | UnsetType:
        """Return the timing in the job's last event."""
        last = self._store.events.after(job.id, job.last_seq - 1) if job.is_over else []
        found = last[-1].fields.get("timing") if last else None
        return UNSET if found is None else msgspec.convert(found, JobTiming)

    def on_delete(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        """Request the job's end; the controller then carries it out."""
        job = own_job(self._store, req, job_id)
        self._store.jobs.request_cancel(job.id, caller_of(req).user.name)
        resp.status = falcon.HTTP_202
        resp.media = self._summary(own_job(self._store, req, job_id))


class JobStream:
    """`GET /jobs/{job_id}/stream`."""

    def __init__(self, responder: StreamResponder) -> None:
        self._responder = responder

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        """Send the job's events as Server-Sent Events."""
        store = self._responder.store
        job = own_job(store, req, job_id)
        view = parameters.VIEW.read(req)
        cursor = cursor_of(req)
        first: tuple[bytes, ...] = ()
        if cursor is None and parameters.FROM_BEGINNING.read(req):
            cursor = 0
        elif cursor is None:
            cursor = job.last_seq
            if job.is_over:
                first = (already_completed(job),)
        with self._responder.admit(req) as admission:
            admission.stream(resp, JobSource(store, job.id, cursor, view, first))
