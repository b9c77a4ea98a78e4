"""The API described for machines, in OpenAPI 3.1; a test holds it against the real routes."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any, Final

import falcon

from ci_runner.server.schemas import SCHEMAS, TIME, Schema, reference
from ci_runner.store import KINDS, MAX_RUNS
from pytest_remote_ci.wire import STATUSES

_JSON: Final = "application/json"
_SSE: Final = "text/event-stream"
_BYTES: Final = "application/octet-stream"
_TAR: Final = "application/x-tar"

_ERRORS: Final = {
    400: "The request is not well-formed.",
    401: "No, unknown or revoked credentials.",
    403: "Another user's job.",
    404: "There is no such job.",
    409: "The job is over, or the Idempotency-Key was used for another submission.",
    413: "The body is too large.",
    416: "There is no such part.",
    422: "The archive, a field or a parameter is refused; `detail` names it.",
    429: "Over a limit of yours; see Retry-After.",
    503: "The runner is busy; see Retry-After.",
    507: "The runner's disk is full; nothing was kept.",
}
_SUBMIT_ERRORS: Final = (400, 401, 409, 413, 422, 429, 503, 507)

_JOB_ID: Final[Schema] = {"name": "job_id", "in": "path", "required": True, "schema": {"type": "string"}}
_VIEW: Final[Schema] = {
    "name": "view",
    "in": "query",
    "schema": {"enum": ["log", "report", "all"], "default": "log"},
    "description": "`log`: text and the end; `report`: everything but what pytest itself prints; `all`: both",
}
_IDEMPOTENCY: Final[Schema] = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "A submission that is repeated with the same key gets the first one's job.",
}
_SEQ: Final[Schema] = {"type": "integer", "minimum": 0}


def _query(name: str, schema: Schema, text: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": text}


def _content(schema: Schema, text: str, media: str = _JSON, **more: Any) -> Schema:
    return {"description": text, "content": {media: {"schema": schema}}, **more}


def _events(text: str) -> Schema:
    return _content(
        {"type": "string", "description": "`data:` lines, each one Event as JSON; `id:` lines number them"},
        text,
        _SSE,
    )


def _operation(
    summary: str, answers: dict[int, Schema], errors: tuple[int, ...], public: bool = False, **more: Any
) -> Schema:
    responses = {str(status): answer for status, answer in answers.items()}
    for status in errors:
        error = _content(reference("Error"), _ERRORS[status])
        if status in (429, 503, 507):
            error["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
        if status == 401:
            error["headers"] = {"WWW-Authenticate": {"schema": {"const": "Bearer"}}}
        responses[str(status)] = error
    return {"summary": summary, "responses": responses, "security": [] if public else [{"key": []}], **more}


def _submit(summary: str, answer: Schema, *parameters: Schema) -> Schema:
    body = {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": reference("Submission"),
                "encoding": {"file": {"contentType": "application/zip"}},
            }
        },
    }
    return {
        "post": _operation(
            summary, {200: answer}, _SUBMIT_ERRORS, requestBody=body, parameters=[_IDEMPOTENCY, *parameters]
        )
    }


def _job_paths() -> dict[str, Schema]:
    summary = reference("JobSummary")
    listing = [
        _query("status", {"enum": list(STATUSES)}, "only jobs with this status"),
        _query("since", TIME, "only jobs submitted then or later"),
        _query("q", {"type": "string"}, "beginning of the id, or part of the name"),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1000}, "most jobs"),
        _query("before", {"type": "string"}, "id of a job: the page behind it"),
    ]
    link = {"Link": {"schema": {"type": "string"}, "description": 'rel="next" when there is more'}}
    jobs = {"type": "array", "items": summary}
    own = (401, 403, 404, 503)
    return {
        "/jobs": {
            "get": _operation(
                "Your jobs, newest submission first",
                {200: _content(jobs, "Summaries.", headers=link)},
                (401, 404, 422, 503),
                parameters=listing,
            )
        },
        "/jobs/{job_id}": {
            "get": _operation("One job", {200: _content(summary, "Its summary.")}, own, parameters=[_JOB_ID]),
            "delete": _operation(
                "Cancel a job",
                {202: _content(summary, "Its end was asked for, now or before.")},
                (401, 403, 404, 409, 503),
                parameters=[_JOB_ID],
            ),
        },
        **_event_paths(own),
        **_artifact_paths(own),
        **_test_paths(own),
    }


def _test_paths(own: tuple[int, ...]) -> dict[str, Schema]:
    page = [
        _JOB_ID,
        _query("after", {"type": "string"}, "only tests behind this id"),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1000}, "most tests"),
    ]
    report = [
        _query("kind", {"enum": list(KINDS), "default": "all"}, "what the report is about"),
        _query("root", {"type": "string"}, "only jobs of the project in this folder of the client"),
        _query("runs", {"type": "integer", "minimum": 1, "maximum": MAX_RUNS, "default": 50}, "newest jobs"),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}, "most tests"),
    ]
    results = {"type": "array", "items": reference("TestResult")}
    return {
        "/jobs/{job_id}/tests": {
            "get": _operation(
                "What became of a job's tests",
                {200: _content(results, "In the order of ids; a job that is not recorded has none.")},
                (*own, 422),
                parameters=page,
            )
        },
        "/reports/tests": {
            "get": _operation(
                "What your runs say about their tests",
                {200: _content(reference("TestReport"), "The runs, and the tests that are asked for.")},
                (401, 422, 503),
                parameters=report,
            )
        },
    }


def _artifact_paths(own: tuple[int, ...]) -> dict[str, Schema]:
    path = {"name": "path", "in": "path", "required": True, "schema": {"type": "string"}}
    headers = [
        {"name": "Range", "in": "header", "schema": {"type": "string"}, "description": "one part, in bytes"},
        {"name": "If-Range", "in": "header", "schema": {"type": "string"}},
        {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}},
    ]
    content = {"type": "string", "contentMediaType": _BYTES}
    tag = {"headers": {"ETag": {"schema": {"type": "string"}, "description": "the content's SHA-256"}}}
    answers = {
        200: _content(content, "Its content, as a download.", _BYTES, **tag),
        206: _content(content, "A part of it.", _BYTES, **tag),
        304: {"description": "The client has it."},
    }
    tar = _content(
        {"type": "string", "contentMediaType": _TAR}, "Regular files only, in the pax format.", _TAR
    )
    return {
        "/jobs/{job_id}/artifacts": {
            "get": _operation(
                "What a job left behind",
                {200: _content({"type": "array", "items": reference("Artifact")}, "In the order of paths.")},
                own,
                parameters=[_JOB_ID],
            )
        },
        "/jobs/{job_id}/artifacts/{path}": {
            "get": _operation("One artifact", answers, (*own, 416), parameters=[_JOB_ID, path, *headers])
        },
        "/jobs/{job_id}/artifacts.tar": {
            "get": _operation("All artifacts of a job", {200: tar}, (*own, 429), parameters=[_JOB_ID])
        },
    }


def _event_paths(own: tuple[int, ...]) -> dict[str, Schema]:
    stream = [
        _JOB_ID,
        _query("from_beginning", {"type": "boolean", "default": False}, "all events, not only new ones"),
        _query("after", _SEQ, "only events numbered above this"),
        {"name": "Last-Event-ID", "in": "header", "schema": _SEQ, "description": "goes before `after`"},
        _VIEW,
    ]
    events = [
        _JOB_ID,
        _query("after", {**_SEQ, "default": 0}, "only events numbered above this"),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 500}, "most events"),
        _query(
            "wait", {"type": "integer", "minimum": 0, "maximum": 60, "default": 0}, "seconds to wait for one"
        ),
        _VIEW,
    ]
    found = {"type": "array", "items": reference("Event")}
    return {
        "/jobs/{job_id}/stream": {
            "get": _operation(
                "Follow a job", {200: _events("The job's events.")}, (*own, 422, 429), parameters=stream
            )
        },
        "/jobs/{job_id}/events": {
            "get": _operation(
                "Events of a job, for clients that cannot stream",
                {200: _content(found, "In order, each with its number.")},
                (*own, 422, 429),
                parameters=events,
            )
        },
    }


def _pipeline_paths() -> dict[str, Schema]:
    question = {"required": True, "content": {_JSON: {"schema": reference("PipelineQuestion")}}}
    found = _content(
        reference("PipelineAnswer"), "What was found; files with mistakes are no error of the request."
    )
    check = _operation(
        "Check pipelines and plan a run", {200: found}, (400, 401, 413, 422, 503), requestBody=question
    )
    return {"/pipelines/check": {"post": check}}


def _public_paths() -> dict[str, Schema]:
    ready = reference("Ready")
    health = _content(reference("Health"), "It answers.")
    checks = {200: _content(ready, "Jobs can be done."), 503: _content(ready, "Something is missing.")}
    return {
        "/health": {
            "get": _operation("Whether the process answers", {200: health}, (), public=True),
            "head": _operation(
                "The same without a body", {200: {"description": "It answers."}}, (), public=True
            ),
        },
        "/ready": {
            "get": _operation("Whether jobs can be done", checks, (), public=True),
            "head": _operation(
                "The same without a body",
                {200: {"description": "Jobs can be done."}, 503: {"description": "Something is missing."}},
                (),
                public=True,
            ),
        },
        "/openapi.json": {
            "get": _operation(
                "This document", {200: _content({"type": "object"}, "OpenAPI 3.1.")}, (), public=True
            )
        },
        "/docs": {
            "get": _operation(
                "This document for people",
                {200: _content({"type": "string"}, "HTML.", "text/html")},
                (),
                public=True,
            )
        },
    }


@cache
def document() -> dict[str, Any]:
    """The whole document; not to be changed."""
    created = _content(reference("JobCreated"), "The job is durable and waits for its turn.")
    digests = reference("Digests")
    missing = _operation(
        "Which contents the runner lacks for you",
        {200: _content(digests, "Those of the digests that must be sent.")},
        (400, 401, 413, 422, 503),
        requestBody={"required": True, "content": {_JSON: {"schema": digests}}},
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ci-runner",
            "version": version("pytest-remote-ci"),
            "description": "Run the tests of a project in containers and follow their results.",
        },
        "paths": {
            "/submit": _submit("Submit a project and follow its job", _events("Its events."), _VIEW),
            "/submit-stream": _submit(
                "The same, beginning with the job's id", _events("`job_id`, then its events."), _VIEW
            ),
            "/submit-async": _submit("Submit a project", created),
            "/blobs/missing": {"post": missing},
            **_job_paths(),
            **_pipeline_paths(),
            **_public_paths(),
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "ci_…"}},
        },
    }


class OpenApi:
    """`GET /openapi.json`."""

    public = True

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The document."""
        resp.media = document()
