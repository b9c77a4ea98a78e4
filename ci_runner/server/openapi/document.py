"""The OpenAPI 3.1 document of the API; a test compares it with the real routes.

A route is described by the types of its bodies (`schemas`) and its parameters (`parameters`), which the server itself
uses. What only this module knows are summaries and statuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from typing import Final, cast

import falcon

from ci_runner.model.job import JobSummary
from ci_runner.model.json_schema import Schema
from ci_runner.pipelines.check import PipelineAnswer, PipelineQuestion
from ci_runner.pipelines.report import JobReport, PipelineReport, StageReport
from ci_runner.pipelines.request import RerunRequest
from ci_runner.server import parameters, schemas
from ci_runner.server.openapi import components
from ci_runner.server.openapi.components import schema_of
from ci_runner.server.openapi.openapi_json import (
    Document,
    FormPart,
    Header,
    Operation,
    Paths,
    RequestBody,
    Response,
)
from ci_runner.server.parameters import IDEMPOTENCY_KEY, JOB_ID, RUN_ID, VIEW, Parameter, path
from ci_runner.server.resources.reports import REPORT_PATHS

_JSON: Final = "application/json"
_SSE: Final = "text/event-stream"
_BYTES: Final = "application/octet-stream"
_TAR: Final = "application/x-tar"
_FORM: Final = "multipart/form-data"

_ERRORS: Final[Mapping[int, str]] = {
    400: "The request is not well-formed.",
    401: "No, unknown or revoked credentials.",
    403: "Another user's job or run.",
    404: "There is no such job or run.",
    409: "It is over, or the Idempotency-Key was used for another submission.",
    413: "The body is too large.",
    416: "There is no such part.",
    422: "The archive, a field or a parameter is refused; `detail` names it.",
    429: "Over a limit of yours or of your address; see Retry-After.",
    503: "The runner is busy; see Retry-After.",
    507: "The runner's disk is full; nothing was stored.",
}
#: Errors of every route with a key, and of every route with a body.
_WITH_KEY: Final = frozenset({401, 429, 503})
_WITH_BODY: Final = frozenset({400, 413, 422, 507})
#: Errors of routes about one job or run.
_OWN: Final = (403, 404)
_LINK: Final[dict[str, Header]] = {
    "Link": {"schema": {"type": "string"}, "description": 'rel="next" when there is more'}
}
_ETAG: Final[dict[str, Header]] = {
    "ETag": {"schema": {"type": "string"}, "description": "the content's SHA-256"}
}


def _answer(
    kind: object, about: str, media: str = _JSON, headers: Mapping[str, Header] | None = None
) -> Response:
    """Return a response with a body: of a type, or with its own schema."""
    schema = cast(Schema, kind) if isinstance(kind, dict) else schema_of(kind)
    found: Response = {"description": about, "content": {media: {"schema": schema}}}
    if headers:
        found["headers"] = dict(headers)
    return found


def _events(about: str) -> Response:
    """Return a response that is a stream of events."""
    text = "`data:` lines, each one Event as JSON; `id:` lines number them"
    return _answer({"type": "string", "description": text}, about, _SSE)


def _file(media: str, about: str, headers: Mapping[str, Header] | None = None) -> Response:
    return _answer({"type": "string", "contentMediaType": media}, about, media, headers)


def _body(kind: object, *, required: bool = True) -> RequestBody:
    found: RequestBody = {"content": {_JSON: {"schema": schema_of(kind)}}}
    return {"required": True, **found} if required else found


def _form(kind: object) -> RequestBody:
    encoding: dict[str, FormPart] = {"file": {"contentType": "application/zip"}}
    return {"required": True, "content": {_FORM: {"schema": schema_of(kind), "encoding": encoding}}}


def _operation(
    summary: str,
    answers: Mapping[int, Response],
    errors: Iterable[int] = (),
    *,
    given: Iterable[Parameter] = (),
    body: RequestBody | None = None,
    public: bool = False,
) -> Operation:
    """Return an operation with its `answers` and `errors` by status; `public`: it needs no key."""
    responses = {str(status): answer for status, answer in answers.items()}
    all_errors = {*errors, *(() if public else _WITH_KEY), *(() if body is None else _WITH_BODY)}
    for status in sorted(all_errors - answers.keys()):
        responses[str(status)] = _error(status)
    found: Operation = {
        "summary": summary,
        "responses": responses,
        "security": [] if public else [{"key": []}],
    }
    if body is not None:
        found["requestBody"] = body
    described = [each.described() for each in given]
    return {**found, "parameters": described} if described else found


def _error(status: int) -> Response:
    error = _answer(schemas.Error, _ERRORS[status])
    if status in (429, 503, 507):
        error["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    if status == 401:
        error["headers"] = {"WWW-Authenticate": {"schema": {"const": "Bearer"}}}
    return error


def _submissions() -> Paths:
    form, refused = _form(schemas.Submission), (409,)
    created = _answer(schemas.JobCreated, "The job is stored and waits in the queue.")
    return {
        "/submit": {
            "post": _operation(
                "Submit a project and follow its job",
                {200: _events("Its events.")},
                refused,
                given=(IDEMPOTENCY_KEY, VIEW),
                body=form,
            )
        },
        "/submit-stream": {
            "post": _operation(
                "The same, beginning with the job's id",
                {200: _events("`job_id`, then its events.")},
                refused,
                given=(IDEMPOTENCY_KEY, VIEW),
                body=form,
            )
        },
        "/submit-async": {
            "post": _operation(
                "Submit a project", {200: created}, refused, given=(IDEMPOTENCY_KEY,), body=form
            )
        },
        "/blobs/missing": {
            "post": _operation(
                "Find the contents that must be uploaded",
                {200: _answer(schemas.Digests, "The digests of contents to upload.")},
                body=_body(schemas.Digests),
            )
        },
    }


def _jobs() -> Paths:
    summary = _answer(JobSummary, "Its summary.")
    cancelled = _answer(JobSummary, "The cancellation was requested, now or before.")
    jobs = _answer(list[JobSummary], "Summaries.", headers=_LINK)
    tests = _answer(list[schemas.TestResult], "In the order of ids; a job that is not recorded has none.")
    return {
        "/jobs": {
            "get": _operation(
                "Your jobs, newest submission first", {200: jobs}, (404, 422), given=parameters.JOBS
            )
        },
        "/jobs/{job_id}": {
            "get": _operation("One job", {200: summary}, _OWN, given=(JOB_ID,)),
            "delete": _operation("Cancel a job", {202: cancelled}, (*_OWN, 409), given=(JOB_ID,)),
        },
        "/jobs/{job_id}/stream": {
            "get": _operation(
                "Follow a job",
                {200: _events("The job's events.")},
                (*_OWN, 422),
                given=(JOB_ID, *parameters.STREAM),
            )
        },
        "/jobs/{job_id}/events": {
            "get": _operation(
                "Events of a job, for clients that cannot stream",
                {200: _answer(list[schemas.Event], "In order, each with its number.")},
                (*_OWN, 422),
                given=(JOB_ID, *parameters.EVENTS),
            )
        },
        **_artifacts(),
        "/jobs/{job_id}/tests": {
            "get": _operation(
                "Results of a job's tests",
                {200: tests},
                (*_OWN, 422),
                given=(JOB_ID, parameters.TESTS_AFTER, parameters.TESTS_LIMIT),
            )
        },
        "/reports/tests": {
            "get": _operation(
                "Statistics about the tests of your jobs",
                {200: _answer(schemas.TestReport, "The jobs and the requested tests.")},
                (422,),
                given=parameters.TEST_REPORT,
            )
        },
    }


def _artifacts() -> Paths:
    ranges = (parameters.RANGE, parameters.IF_RANGE, parameters.IF_NONE_MATCH)
    content: dict[int, Response] = {
        200: _file(_BYTES, "Its content, as a download.", _ETAG),
        206: _file(_BYTES, "A part of it.", _ETAG),
        304: {"description": "The client has it."},
    }
    return {
        "/jobs/{job_id}/artifacts": {
            "get": _operation(
                "Artifacts of a job",
                {200: _answer(list[schemas.Artifact], "In the order of paths.")},
                _OWN,
                given=(JOB_ID,),
            )
        },
        "/jobs/{job_id}/changes": {
            "get": _operation(
                "What a job did to files of the project",
                {200: _answer(schemas.Changes, "Their contents are at the job's artifacts.")},
                _OWN,
                given=(JOB_ID,),
            )
        },
        "/jobs/{job_id}/artifacts/{path}": {
            "get": _operation("One artifact", content, (*_OWN, 416), given=(JOB_ID, path("path"), *ranges))
        },
        "/jobs/{job_id}/artifacts.tar": {
            "get": _operation(
                "All artifacts of a job",
                {200: _file(_TAR, "Regular files only, in the pax format.")},
                _OWN,
                given=(JOB_ID,),
            )
        },
    }


def _kept() -> Paths:
    listed = _answer(list[schemas.KeptFolder], "By project and pattern.")
    root = (parameters.KEPT_ROOT,)
    return {
        "/kept": {
            "get": _operation("What your jobs keep for the next ones", {200: listed}, given=root),
            "delete": _operation(
                "Remove what they keep", {200: _answer(schemas.Cleared, "It is removed.")}, given=root
            ),
        }
    }


def _runs() -> Paths:
    whole = _answer(schemas.RunDetail, "The run and its jobs.")
    followed = _events("Events of all its jobs, each with `job` and `job_id`, then `run_complete`.")
    return {
        "/runs": {
            "get": _operation(
                "Your runs, newest submission first",
                {200: _answer(list[schemas.RunSummary], "Summaries.", headers=_LINK)},
                (404, 422),
                given=parameters.RUNS,
            ),
            "post": _operation(
                "Submit a project and run a pipeline on it",
                {200: whole},
                (409,),
                given=(IDEMPOTENCY_KEY,),
                body=_form(schemas.RunSubmission),
            ),
        },
        "/runs/{run_id}": {
            "get": _operation("One run", {200: whole}, _OWN, given=(RUN_ID,)),
            "delete": _operation(
                "Cancel a run, or a stage or a job of it",
                {202: whole},
                (*_OWN, 409),
                given=(RUN_ID, parameters.CANCEL_STAGE, parameters.CANCEL_JOB),
            ),
        },
        "/runs/{run_id}/stream": {
            "get": _operation(
                "Follow a run", {200: followed}, (*_OWN, 422), given=(RUN_ID, *parameters.STREAM)
            )
        },
        "/runs/{run_id}/events": {
            "get": _operation(
                "Events of a run, for clients that cannot stream",
                {200: _answer(list[schemas.Event], "In order, each with its number.")},
                (*_OWN, 422),
                given=(RUN_ID, *parameters.EVENTS),
            )
        },
        "/runs/{run_id}/rerun": {
            "post": _operation(
                "Run it again on the same workspace",
                {200: _answer(schemas.RunDetail, "The new run.")},
                (*_OWN, 409),
                given=(RUN_ID, IDEMPOTENCY_KEY),
                body=_body(RerunRequest, required=False),
            )
        },
    }


def _pipelines() -> Paths:
    found = "The result. Errors in the files are not errors of the request."
    name = path("name")
    return {
        "/pipelines/check": {
            "post": _operation(
                "Check pipelines and plan a run",
                {200: _answer(PipelineAnswer, found)},
                body=_body(PipelineQuestion),
            )
        },
        "/pipelines/{name}/runs/{run_number}": {
            "get": _operation(
                "One run by its number",
                {200: _answer(schemas.RunDetail, "The run and its jobs.")},
                (404, 422),
                given=(name, parameters.RUN_NUMBER),
            )
        },
        "/pipelines/{name}/durations": {
            "get": _operation(
                "How long its jobs usually take",
                {200: _answer(dict[str, float], "Seconds by name.")},
                given=(name,),
            )
        },
        **{f"/reports/pipelines{place}": {"get": _report(place)} for place in REPORT_PATHS},
    }


def _report(place: str) -> Operation:
    """Return the operation of one of the `REPORT_PATHS`."""
    names = [path(part[1:-1]) for part in place.split("/") if part.startswith("{")]
    if "{run_number}" not in place:
        answer = _answer(_list_of(PipelineReport, StageReport, JobReport), "Newest first.", headers=_LINK)
        return _operation("Reports of runs", {200: answer}, (404, 422), given=(*names, *parameters.HISTORY))
    kind = JobReport if "{job}" in place else StageReport if "{stage}" in place else PipelineReport
    answer = _answer(kind, "The report.")
    return _operation(f"Report ({kind.__name__})", {200: answer}, (404, 422), given=names)


def _list_of(*kinds: type) -> Schema:
    return {"type": "array", "items": {"oneOf": [schema_of(kind) for kind in kinds]}}


def _public() -> Paths:
    answers, ready, missing = "It answers.", "Jobs can run.", "A dependency is not ready."
    checked = {200: _answer(schemas.Readiness, ready), 503: _answer(schemas.Readiness, missing)}
    without_body: dict[int, Response] = {200: {"description": ready}, 503: {"description": missing}}
    return {
        "/health": {
            "get": _operation(
                "Whether the process responds", {200: _answer(schemas.Health, answers)}, public=True
            ),
            "head": _operation("The same without a body", {200: {"description": answers}}, public=True),
        },
        "/ready": {
            "get": _operation("Whether jobs can run", checked, public=True),
            "head": _operation("The same without a body", without_body, public=True),
        },
        "/metrics": {
            "get": _operation(
                "Metrics in Prometheus' text format; needs the token of the operator's setting",
                {
                    200: _answer({"type": "string"}, "The metrics.", "text/plain"),
                    401: _answer(schemas.Error, "The token is missing or wrong."),
                    404: _answer(schemas.Error, "Metrics are off."),
                },
                public=True,
            )
        },
        "/openapi.json": {
            "get": _operation(
                "This document", {200: _answer({"type": "object"}, "OpenAPI 3.1.")}, public=True
            )
        },
        "/docs": {
            "get": _operation(
                "This document as a web page",
                {200: _answer({"type": "string"}, "HTML.", "text/html")},
                public=True,
            )
        },
    }


@cache
def document() -> Document:
    """Return the whole document; callers must not change it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ci-runner",
            "version": version("pytest-remote-ci"),
            "description": "Run the tests of a project in containers and follow their results.",
        },
        "paths": {**_submissions(), **_jobs(), **_kept(), **_runs(), **_pipelines(), **_public()},
        "components": {
            "schemas": components.make(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "ci_…"}},
        },
    }


class OpenApi:
    """`GET /openapi.json`."""

    public = True

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send the document."""
        resp.media = document()
