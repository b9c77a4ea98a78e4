"""Runs of pipelines over HTTP: submit, list, follow, cancel, rerun.

A run is submitted like a job (`submit`), with the definition of the run in the part ``options``
(`pipelines.request`). The owner is known from the key alone, as with jobs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from typing import Any, Final

import falcon

from ci_runner import failpoints
from ci_runner.errors import AccessDenied, Conflict, InvalidSubmission, NotFound
from ci_runner.pipelines.request import (
    RunRequest,
    parse_secrets,
    require_passable,
    require_secrets,
    secrets_of,
)
from ci_runner.pipelines.rerun import reusable
from ci_runner.pipelines.run import Run
from ci_runner.server.context import Services
from ci_runner.server.http.auth import caller_of
from ci_runner.server.http.limits import check_queue
from ci_runner.server.resources.paging import link_next_page, status_and_since
from ci_runner.server.resources.pipeline_plan import plan_in
from ci_runner.server.resources.submit import Received, Submission, cap_priority, idempotency_key, limited
from ci_runner.server.streams.stream_response import StreamResponder, flag, number, parse_number
from ci_runner.store import Store
from pytest_remote_ci.wire.protocol import Manifest, parse_json

_log = logging.getLogger(__name__)

_ANSWERED = failpoints.register("server.runs.answered", "the answer about a run is handed to the HTTP server")

_PAGE: Final = 1000
_MOST: Final = 10**15
_BODY: Final = 4 << 20


def own_run(store: Store, req: falcon.Request, run_id: str) -> Run:
    """Return the caller's run; raises `AccessDenied` if it is another user's, and `NotFound`."""
    run = store.runs.get(run_id, caller_of(req).user.id)
    if run is None:
        if store.runs.get(run_id) is not None:
            raise AccessDenied("Access denied")
        raise NotFound("Run not found")
    return run


def detail(store: Store, run: Run) -> dict[str, Any]:
    """Return the JSON of a run with its stages and jobs, for its owner."""
    return {
        **run.to_summary_dict(),
        "stages": list(run.plan.stages),
        "jobs": [state.to_dict() for state in store.runs.states(run)],
    }


class RunList:
    """`POST` and `GET /runs`."""

    def __init__(self, services: Services, submission: Submission) -> None:
        self._services = services
        self._submission = submission

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Accept a project and make a run of it; the upload is durable before the response."""
        user = caller_of(req).user
        key = idempotency_key(req)
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
        options: dict[str, Any] = cap_priority(request.submit, received.manifest, user).to_dict()
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
        limit = number(req, "limit", _PAGE, 1, _PAGE)
        runs, wanted = self._services.store.runs, self._wanted(req)
        found = runs.list(user_id, limit=limit, before=req.get_param("before"), **wanted)
        resp.media = [run.to_summary_dict() for run in found]
        if len(found) == limit and runs.list(user_id, limit=1, before=found[-1].id, **wanted):
            link_next_page(req, resp, ("pipeline", "status", "since", "limit"), found[-1].id)

    @staticmethod
    def _wanted(req: falcon.Request) -> dict[str, Any]:
        status, since = status_and_since(req)
        return {"status": status, "since": since, "pipeline": req.get_param("pipeline")}


class RunDetail:
    """`GET` and `DELETE /runs/{run_id}`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def on_get(self, req: falcon.Request, resp: falcon.Response, run_id: str) -> None:
        """Send the run with all its jobs."""
        resp.media = detail(self._store, own_run(self._store, req, run_id))

    def on_delete(self, req: falcon.Request, resp: falcon.Response, run_id: str) -> None:
        """Request the end of the run, or of one of its stages or jobs; the controller brings it about."""
        run = own_run(self._store, req, run_id)
        stage, job = req.get_param("stage"), req.get_param("job")
        self._store.runs.request_cancel(run.id, caller_of(req).user.name, stage=stage, job=job)
        resp.status = falcon.HTTP_202
        resp.media = detail(self._store, own_run(self._store, req, run_id))


class NumberedRun:
    """`GET /pipelines/{name}/runs/{number}`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str, run_number: str) -> None:
        """Send the caller's run with that pipeline and number."""
        wanted = parse_number("number", run_number, 1, _MOST)
        run = self._store.runs.by_number(caller_of(req).user.id, name, wanted)
        if run is None:
            raise NotFound("Run not found")
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
        view = self._responder.view(req)
        header = req.get_header("Last-Event-ID")
        if header:
            cursor = parse_number("Last-Event-ID", header, 0, _MOST)
        elif req.get_param("after") is not None:
            cursor = number(req, "after", 0, 0, _MOST)
        else:
            cursor = 0 if flag(req, "from_beginning", False) else run.last_seq
        with self._responder.admit(req) as admission:
            admission.stream_run(resp, run.id, cursor, view)


class Rerun:
    """`POST /runs/{run_id}/rerun`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def on_post(self, req: falcon.Request, resp: falcon.Response, run_id: str) -> None:
        """Make a new run of the same plan on the same workspace, of all jobs or only of those that did not pass."""
        store, user = self._services.store, caller_of(req).user
        old = own_run(store, req, run_id)
        wanted = _rerun_options(limited("body", req.bounded_stream, _BODY))
        if not old.is_over:
            raise Conflict("The run is not over: cancel it first, or wait for its end")
        check_queue(self._services, user.id)
        secrets = parse_secrets(wanted.pop("secrets", None))
        require_passable(old.plan)  # the run may be older than this rule
        require_secrets(old.plan, secrets)
        reuse = reusable(old.plan, store.runs.facts(old.id), **wanted)
        self._renew(old, user.id)
        fresh = Run(
            str(uuid.uuid4()),
            user.id,
            old.plan,
            old.workspace,
            options=old.options,
            rerun_of=old.id,
        )
        key = idempotency_key(req)
        digest = (
            hashlib.sha256(json.dumps([old.id, wanted], sort_keys=True).encode()).hexdigest() if key else None
        )
        needed = {name: value for name, value in secrets.items() if name in secrets_of(old.plan)}
        run = store.runs.create(fresh, secrets=needed, reuse=reuse, idempotency_key=key, body_digest=digest)
        resp.media = detail(store, run)
        failpoints.hit(_ANSWERED)

    def _renew(self, old: Run, user_id: str) -> None:
        """Keep the workspace for the new run. Raises `Conflict` if it was deleted."""
        blobs, granted = self._services.blobs, self._services.store.blobs
        gone = Conflict("The run's workspace is no longer kept: submit the project again")
        mtimes = old.options.get("mtimes")
        digests = {old.workspace} | ({mtimes} if mtimes else set())
        with blobs.granting():
            if blobs.missing(digests):
                raise gone
            with blobs.open(old.workspace) as file:
                rows = json.loads(file.read())
            digests |= {entry.sha256 for entry in Manifest.from_dict({"files": rows}).files}
            if blobs.missing(digests) or digests - granted.granted(user_id, digests):
                raise gone
            granted.grant(user_id, digests)


def _rerun_options(body: bytes) -> dict[str, Any]:
    raw = parse_json("body", body or b"{}")
    if not isinstance(raw, dict):
        raise InvalidSubmission("body: must be a JSON object")
    unknown = sorted(raw.keys() - {"failed", "stage", "job", "secrets"})
    if unknown:
        raise InvalidSubmission(f"body.{unknown[0]}: is unknown to this runner")
    if not isinstance(raw.get("failed", False), bool):
        raise InvalidSubmission("body.failed: must be true or false")
    for name in ("stage", "job"):
        if not isinstance(raw.get(name), (str, type(None))):
            raise InvalidSubmission(f"body.{name}: must be text")
    return raw
