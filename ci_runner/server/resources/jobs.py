"""Jobs for their owners: lists, summaries, event streams, cancelling.

The owner is known from the key alone, and is part of every query. Another user's job gives 403, as in the reference
system: ids are random, so this reveals only that an id exists.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import TypedDict

import falcon

from ci_runner.errors import AccessDenied, NotFound
from ci_runner.model.job import Job, JobEvent
from ci_runner.server import parameters
from ci_runner.server.http.auth import caller_of
from ci_runner.server.parameters import View
from ci_runner.server.resources.paging import link_next_page
from ci_runner.server.streams.job_source import JobSource, already_completed
from ci_runner.server.streams.source import is_visible
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

    def __init__(self, repository: JobRepository) -> None:
        self._repository = repository

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send the caller's own jobs, newest submission first."""
        user_id = caller_of(req).user.id
        limit = parameters.JOBS_LIMIT.read(req)
        wanted = self._wanted(req)
        jobs = self._repository.list_jobs(user_id, limit=limit, before=parameters.BEFORE.text(req), **wanted)
        resp.media = [job.summary() for job in jobs]
        if len(jobs) == limit and self._repository.list_jobs(user_id, limit=1, before=jobs[-1].id, **wanted):
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
        """Send the job's summary."""
        resp.media = own_job(self._store, req, job_id).summary()

    def on_delete(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        """Request the job's end; the controller then carries it out."""
        job = own_job(self._store, req, job_id)
        self._store.jobs.request_cancel(job.id, caller_of(req).user.name)
        resp.status = falcon.HTTP_202
        resp.media = own_job(self._store, req, job_id).summary()


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


class JobEvents:
    """`GET /jobs/{job_id}/events`: the same events for clients that cannot stream."""

    def __init__(self, responder: StreamResponder) -> None:
        self._responder = responder

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        """Send events after a number; may wait for one on request, using a stream slot meanwhile."""
        job = own_job(self._responder.store, req, job_id)
        view = parameters.VIEW.read(req)
        after = parameters.EVENTS_AFTER.read(req)
        limit = parameters.EVENTS_LIMIT.read(req)
        wait = parameters.EVENTS_WAIT.read(req)
        events = self._visible(job.id, after, limit, view)
        if not events and wait and not job.is_over:
            events = self._wait(req, job, after, limit, view, wait)
        resp.media = [event.to_dict() | {"seq": event.seq} for event in events]
        resp.set_header("Cache-Control", "no-store")

    def _wait(
        self, req: falcon.Request, job: Job, after: int, limit: int, view: View, wait: int
    ) -> list[JobEvent]:
        deadline = time.monotonic() + wait
        streams = self._responder.streams
        with (
            self._responder.admit(req) as admission,
            streams.listen(job.id, admission.caller, admission.disconnected) as listener,
        ):
            while True:
                listener.news.clear()
                events = self._visible(job.id, after, limit, view)
                left = deadline - time.monotonic()
                if events or left <= 0 or listener.ended:
                    return events
                streams.wait(listener, left)

    def _visible(self, job_id: str, after: int, limit: int, view: View) -> list[JobEvent]:
        """Return the next events of `view`, skipping pages without any."""
        while True:
            events = self._responder.store.events.after(job_id, after, limit)
            visible = [event for event in events if is_visible(event, view)]
            if visible or not events:
                return visible
            after = events[-1].seq
