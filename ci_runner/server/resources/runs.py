"""Runs of pipelines over HTTP: submit, list, follow, cancel, rerun.

A run is submitted like a job (`submit`), with the definition of the run in the part ``options``
(`pipelines.request`). The owner is known from the key alone, as with jobs.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import uuid
from typing import Final, TypedDict

import falcon

from ci_runner import failpoints
from ci_runner.errors import AccessDenied, Conflict, NotFound
from ci_runner.pipelines.request import (
    RerunRequest,
    RunRequest,
    require_passable,
    require_secrets,
    secrets_of,
)
from ci_runner.pipelines.rerun import reusable
from ci_runner.pipelines.run import Run
from ci_runner.server import parameters, schemas
from ci_runner.server.context import Services
from ci_runner.server.http.auth import caller_of
from ci_runner.server.http.limits import check_queue
from ci_runner.server.resources.paging import link_next_page
from ci_runner.server.resources.pipeline_plan import plan_in
from ci_runner.server.resources.submit import Received, Submission, cap_priority, limited
from ci_runner.server.streams.run_source import RunSource
from ci_runner.server.streams.sse_response import StreamResponder, cursor_of
from ci_runner.store import Store
from pytest_remote_ci.wire.protocol import Manifest, Status

_log = logging.getLogger(__name__)

_ANSWERED = failpoints.register("server.runs.answered", "the answer about a run is handed to the HTTP server")

_BODY: Final = 4 << 20


def own_run(store: Store, req: falcon.Request, run_id: str) -> Run:
    """Return the caller's run; raises `AccessDenied` if it is another user's, and `NotFound`."""
    run = store.runs.get(run_id, caller_of(req).user.id)
    if run is None:
        if store.runs.get(run_id) is not None:
            raise AccessDenied("Access denied")
        raise NotFound("Run not found", run_id)
    return run


def detail(store: Store, run: Run) -> schemas.RunDetail:
    """Return a run with its stages and jobs, for its owner."""
    return schemas.RunDetail.with_jobs(run, store.runs.states(run))


class RunFilters(TypedDict):
    """Which runs are listed."""

    status: Status | None
    since: dt.datetime | None
    pipeline: str | None


class RunList:
    """`POST` and `GET /runs`."""

    def __init__(self, services: Services, submission: Submission) -> None:
        self._services = services
        self._submission = submission

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Accept a project and make a run of it; the upload is durable before the response."""
        user = caller_of(req).user
        key = parameters.IDEMPOTENCY_KEY.given(req)
        received = self._submission.receive(req, RunRequest.from_json, RunRequest())
        run = self._store(req, received, key)
        _log.info("run %s (%s #%d) submitted by user %s", run.id, run.pipeline, run.number, user.id)
        resp.media = detail(self._services.store, run)
        failpoints.hit(_ANSWERED)

    def _store(self, req: falcon.Request, received: Received[RunRequest], key: str | None) -> Run:
        user, request = caller_of(req).user, received.options
        found = (
            plan_in(self._services.blobs, received.manifest, request)
            if request.plan is None
            else request.plan
        )
        plan = request.complete(found)
        options = cap_priority(request.submit, received.manifest, user).to_dict()
        if received.mtimes:
            options["mtimes"] = received.mtimes
        if request.timeout is not None:
            options["run_timeout"] = request.timeout
        run = Run(
            str(uuid.uuid4()),
            user.id,
            plan,
            received.workspace,
            options=options,
        )
        digest = None
        if key:  # secrets are compared by name only
            same = [run.workspace, plan.to_dict(), options, sorted(request.secrets)]
            digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()
        return self._services.store.runs.create(
            run, secrets=request.needed_secrets(plan), idempotency_key=key, body_digest=digest
        )

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send the caller's own runs, newest submission first."""
        user_id = caller_of(req).user.id
        limit = parameters.RUNS_LIMIT.read(req)
        runs, wanted = self._services.store.runs, self._wanted(req)
        found = runs.list(user_id, limit=limit, before=parameters.BEFORE.text(req), **wanted)
        resp.media = [schemas.RunSummary.of(run) for run in found]
        if len(found) == limit and runs.list(user_id, limit=1, before=found[-1].id, **wanted):
            link_next_page(req, resp, parameters.RUNS, found[-1].id)

    @staticmethod
    def _wanted(req: falcon.Request) -> RunFilters:
        return {
            "status": parameters.STATUS.given(req),
            "since": parameters.SINCE.given(req),
            "pipeline": parameters.PIPELINE.text(req),
        }


class RunDetail:
    """`GET` and `DELETE /runs/{run_id}`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def on_get(self, req: falcon.Request, resp: falcon.Response, run_id: str) -> None:
        """Send the run with all its jobs."""
        resp.media = detail(self._store, own_run(self._store, req, run_id))

    def on_delete(self, req: falcon.Request, resp: falcon.Response, run_id: str) -> None:
        """Request the end of the run, or of one of its stages or jobs; the controller carries it out."""
        run = own_run(self._store, req, run_id)
        stage, job = parameters.CANCEL_STAGE.text(req), parameters.CANCEL_JOB.text(req)
        self._store.runs.request_cancel(run.id, caller_of(req).user.name, stage=stage, job=job)
        resp.status = falcon.HTTP_202
        resp.media = detail(self._store, own_run(self._store, req, run_id))


class NumberedRun:
    """`GET /pipelines/{name}/runs/{number}`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str, run_number: str) -> None:
        """Send the caller's run with that pipeline and number."""
        wanted = parameters.RUN_NUMBER.parse(run_number)
        run = self._store.runs.by_number(caller_of(req).user.id, name, wanted)
        if run is None:
            raise NotFound("Run not found", f"{name}#{wanted}")
        resp.media = detail(self._store, run)


class Durations:
    """`GET /pipelines/{name}/durations`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        """Send the usual durations of the jobs of the caller's pipeline, in seconds."""
        resp.media = self._store.runs.durations(caller_of(req).user.id, name)


class RunStream:
    """`GET /runs/{run_id}/stream`."""

    def __init__(self, responder: StreamResponder) -> None:
        self._responder = responder

    def on_get(self, req: falcon.Request, resp: falcon.Response, run_id: str) -> None:
        """Send the events of all the run's jobs, and of the run itself, as Server-Sent Events."""
        run = own_run(self._responder.store, req, run_id)
        view = parameters.VIEW.read(req)
        cursor = cursor_of(req)
        if cursor is None:
            cursor = 0 if parameters.FROM_BEGINNING.read(req) else run.last_seq
        with self._responder.admit(req) as admission:
            admission.stream(resp, RunSource(self._responder.store, run.id, cursor, view))


class Rerun:
    """`POST /runs/{run_id}/rerun`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def on_post(self, req: falcon.Request, resp: falcon.Response, run_id: str) -> None:
        """Make a new run of the same plan on the same workspace, of all jobs or only of those that did not pass."""
        store, user = self._services.store, caller_of(req).user
        old = own_run(store, req, run_id)
        request = RerunRequest.from_json(limited("body", req.bounded_stream, _BODY) or b"{}")
        if not old.is_over:
            raise Conflict("The run has not ended: cancel it, or wait for its end")
        check_queue(self._services, user.id)
        secrets = request.secrets
        require_passable(old.plan)  # the run may be older than this rule
        require_secrets(old.plan, secrets)
        reuse = reusable(
            old.plan, store.runs.facts(old.id), failed=request.failed, stage=request.stage, job=request.job
        )
        self._renew(old, user.id)
        fresh = Run(
            str(uuid.uuid4()),
            user.id,
            old.plan,
            old.workspace,
            options=old.options,
            rerun_of=old.id,
        )
        key = parameters.IDEMPOTENCY_KEY.given(req)
        wanted = {"failed": request.failed, "stage": request.stage, "job": request.job}
        given = {name: value for name, value in wanted.items() if value not in (False, None)}
        digest = (
            hashlib.sha256(json.dumps([old.id, given], sort_keys=True).encode()).hexdigest() if key else None
        )
        needed = {name: value for name, value in secrets.items() if name in secrets_of(old.plan)}
        run = store.runs.create(fresh, secrets=needed, reuse=reuse, idempotency_key=key, body_digest=digest)
        resp.media = detail(store, run)
        failpoints.hit(_ANSWERED)

    def _renew(self, old: Run, user_id: str) -> None:
        """Keep the workspace for the new run. Raises `Conflict` if it was deleted."""
        blobs, granted = self._services.blobs, self._services.store.blobs
        gone = Conflict("The run's workspace was deleted: submit the project again")
        digests = {old.workspace} | ({old.mtimes} if old.mtimes else set())
        with blobs.granting():
            if blobs.missing(digests):
                raise gone
            with blobs.open(old.workspace) as file:
                sent = Manifest.from_canonical(file.read())
            digests |= {entry.sha256 for entry in sent.files}
            if blobs.missing(digests) or digests - granted.granted(user_id, digests):
                raise gone
            granted.grant(user_id, digests)
