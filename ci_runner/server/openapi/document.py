"""The OpenAPI 3.1 document of the API; a test compares it with the real routes."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any, Final

import falcon

from ci_runner.server.openapi import runs
from ci_runner.server.openapi.schemas import SCHEMAS, TIME, Schema, reference
from ci_runner.server.openapi.wording import IDEMPOTENCY, JSON, VIEW, content, events, operation, query
from ci_runner.store import KINDS, MAX_RUNS
from pytest_remote_ci.wire.protocol import STATUSES

_BYTES: Final = "application/octet-stream"
_TAR: Final = "application/x-tar"

_SUBMIT_ERRORS: Final = (400, 401, 409, 413, 422, 429, 503, 507)

_JOB_ID: Final[Schema] = {"name": "job_id", "in": "path", "required": True, "schema": {"type": "string"}}
_SEQ: Final[Schema] = {"type": "integer", "minimum": 0}


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
        "post": operation(
            summary, {200: answer}, _SUBMIT_ERRORS, requestBody=body, parameters=[IDEMPOTENCY, *parameters]
        )
    }


def _job_paths() -> dict[str, Schema]:
    summary = reference("JobSummary")
    listing = [
        query("status", {"enum": list(STATUSES)}, "only jobs with this status"),
        query("since", TIME, "only jobs submitted then or later"),
        query("q", {"type": "string"}, "beginning of the id, or part of the name"),
        query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1000}, "most jobs"),
        query("before", {"type": "string"}, "id of a job: the page behind it"),
    ]
    link = {"Link": {"schema": {"type": "string"}, "description": 'rel="next" when there is more'}}
    jobs = {"type": "array", "items": summary}
    own = (401, 403, 404, 503)
    return {
        "/jobs": {
            "get": operation(
                "Your jobs, newest submission first",
                {200: content(jobs, "Summaries.", headers=link)},
                (401, 404, 422, 503),
                parameters=listing,
            )
        },
        "/jobs/{job_id}": {
            "get": operation("One job", {200: content(summary, "Its summary.")}, own, parameters=[_JOB_ID]),
            "delete": operation(
                "Cancel a job",
                {202: content(summary, "Its end was asked for, now or before.")},
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
        query("after", {"type": "string"}, "only tests behind this id"),
        query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1000}, "most tests"),
    ]
    report = [
        query("kind", {"enum": list(KINDS), "default": "all"}, "what the report is about"),
        query("root", {"type": "string"}, "only jobs of the project in this folder of the client"),
        query("runs", {"type": "integer", "minimum": 1, "maximum": MAX_RUNS, "default": 50}, "newest jobs"),
        query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}, "most tests"),
    ]
    results = {"type": "array", "items": reference("TestResult")}
    return {
        "/jobs/{job_id}/tests": {
            "get": operation(
                "What became of a job's tests",
                {200: content(results, "In the order of ids; a job that is not recorded has none.")},
                (*own, 422),
                parameters=page,
            )
        },
        "/reports/tests": {
            "get": operation(
                "What your runs say about their tests",
                {200: content(reference("TestReport"), "The runs, and the tests that are asked for.")},
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
    body = {"type": "string", "contentMediaType": _BYTES}
    tag = {"headers": {"ETag": {"schema": {"type": "string"}, "description": "the content's SHA-256"}}}
    answers = {
        200: content(body, "Its content, as a download.", _BYTES, **tag),
        206: content(body, "A part of it.", _BYTES, **tag),
        304: {"description": "The client has it."},
    }
    tar = content(
        {"type": "string", "contentMediaType": _TAR}, "Regular files only, in the pax format.", _TAR
    )
    return {
        "/jobs/{job_id}/artifacts": {
            "get": operation(
                "What a job left behind",
                {200: content({"type": "array", "items": reference("Artifact")}, "In the order of paths.")},
                own,
                parameters=[_JOB_ID],
            )
        },
        "/jobs/{job_id}/artifacts/{path}": {
            "get": operation("One artifact", answers, (*own, 416), parameters=[_JOB_ID, path, *headers])
        },
        "/jobs/{job_id}/artifacts.tar": {
            "get": operation("All artifacts of a job", {200: tar}, (*own, 429), parameters=[_JOB_ID])
        },
    }


def _event_paths(own: tuple[int, ...]) -> dict[str, Schema]:
    stream = [
        _JOB_ID,
        query("from_beginning", {"type": "boolean", "default": False}, "all events, not only new ones"),
        query("after", _SEQ, "only events numbered above this"),
        {"name": "Last-Event-ID", "in": "header", "schema": _SEQ, "description": "goes before `after`"},
        VIEW,
    ]
    portions = [
        _JOB_ID,
        query("after", {**_SEQ, "default": 0}, "only events numbered above this"),
        query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 500}, "most events"),
        query(
            "wait", {"type": "integer", "minimum": 0, "maximum": 60, "default": 0}, "seconds to wait for one"
        ),
        VIEW,
    ]
    found = {"type": "array", "items": reference("Event")}
    return {
        "/jobs/{job_id}/stream": {
            "get": operation(
                "Follow a job", {200: events("The job's events.")}, (*own, 422, 429), parameters=stream
            )
        },
        "/jobs/{job_id}/events": {
            "get": operation(
                "Events of a job, for clients that cannot stream",
                {200: content(found, "In order, each with its number.")},
                (*own, 422, 429),
                parameters=portions,
            )
        },
    }


def _pipeline_paths() -> dict[str, Schema]:
    question = {"required": True, "content": {JSON: {"schema": reference("PipelineQuestion")}}}
    found = content(
        reference("PipelineAnswer"), "What was found; files with mistakes are no error of the request."
    )
    check = operation(
        "Check pipelines and plan a run", {200: found}, (400, 401, 413, 422, 503), requestBody=question
    )
    return {"/pipelines/check": {"post": check}}


def _public_paths() -> dict[str, Schema]:
    ready = reference("Published")
    health = content(reference("Health"), "It answers.")
    checks = {200: content(ready, "Jobs can be done."), 503: content(ready, "Something is missing.")}
    return {
        "/health": {
            "get": operation("Whether the process answers", {200: health}, (), public=True),
            "head": operation(
                "The same without a body", {200: {"description": "It answers."}}, (), public=True
            ),
        },
        "/ready": {
            "get": operation("Whether jobs can be done", checks, (), public=True),
            "head": operation(
                "The same without a body",
                {200: {"description": "Jobs can be done."}, 503: {"description": "Something is missing."}},
                (),
                public=True,
            ),
        },
        "/openapi.json": {
            "get": operation(
                "This document", {200: content({"type": "object"}, "OpenAPI 3.1.")}, (), public=True
            )
        },
        "/docs": {
            "get": operation(
                "This document for people",
                {200: content({"type": "string"}, "HTML.", "text/html")},
                (),
                public=True,
            )
        },
    }


@cache
def document() -> dict[str, Any]:
    """Return the whole document; callers must not change it."""
    created = content(reference("JobCreated"), "The job is durable and waits for its turn.")
    digests = reference("Digests")
    missing = operation(
        "Which contents the runner lacks for you",
        {200: content(digests, "Those of the digests that must be sent.")},
        (400, 401, 413, 422, 503),
        requestBody={"required": True, "content": {JSON: {"schema": digests}}},
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ci-runner",
            "version": version("pytest-remote-ci"),
            "description": "Run the tests of a project in containers and follow their results.",
        },
        "paths": {
            "/submit": _submit("Submit a project and follow its job", events("Its events."), VIEW),
            "/submit-stream": _submit(
                "The same, beginning with the job's id", events("`job_id`, then its events."), VIEW
            ),
            "/submit-async": _submit("Submit a project", created),
            "/blobs/missing": {"post": missing},
            **_job_paths(),
            **runs.paths(),
            **_pipeline_paths(),
            **_public_paths(),
        },
        "components": {
            "schemas": {**SCHEMAS, **runs.SCHEMAS},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "ci_…"}},
        },
    }


class OpenApi:
    """`GET /openapi.json`."""

    public = True

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send the document."""
        resp.media = document()
