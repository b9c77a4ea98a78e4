"""The routes of runs in the OpenAPI document: paths and schemas for `document`."""

from __future__ import annotations

from typing import Any, Final

from ci_runner.pipelines.report_status import ExecutionStatus
from ci_runner.server.openapi.schemas import DIGEST, TIME, Schema, or_null, reference
from ci_runner.server.openapi.wording import IDEMPOTENCY, VIEW, content, events, operation, query
from pytest_remote_ci.wire.protocol import PHASES, PROTOCOL, STATUSES

_TEXT: Final[Schema] = {"type": "string"}
_OR_TEXT: Final[Schema] = {"type": ["string", "null"]}
_TEXTS: Final[Schema] = {"type": "array", "items": _TEXT}
_FLAG: Final[Schema] = {"type": "boolean"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_UUID: Final[Schema] = {"type": "string", "format": "uuid"}
WORD: Final[Schema] = {"enum": [word.value for word in ExecutionStatus]}


def closed(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """Return the schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


_SUMMARY: Final[dict[str, Schema]] = {
    "run_id": _UUID,
    "pipeline": _TEXT,
    "number": {"type": "integer", "minimum": 1, "description": "counts the runs of this pipeline and user"},
    "status": {"enum": list(STATUSES)},
    "success": {"type": ["boolean", "null"]},
    "reason": _OR_TEXT,
    "submitted_at": TIME,
    "start_time": or_null(TIME),
    "end_time": or_null(TIME),
    "workspace": DIGEST,
    "keep_going": _FLAG,
    "rerun_of": {"type": ["string", "null"], "description": "id of the run that this one repeats"},
}

SCHEMAS: Final[dict[str, Schema]] = {
    "RunSummary": closed(_SUMMARY),
    "RunJob": closed(
        {
            "name": {**_TEXT, "description": "unique in the run: with its cell where there is a matrix"},
            "definition": _TEXT,
            "stage": _TEXT,
            "cell": {"type": "object", "additionalProperties": _TEXT},
            "needs": _TEXTS,
            "kind": {"enum": ["pytest", "script"]},
            "allow_failure": _FLAG,
            "skipped": _FLAG,
            "status": {"enum": list(STATUSES)},
            "success": {"type": ["boolean", "null"]},
            "exit_code": {"type": ["integer", "null"]},
            "reason": _OR_TEXT,
            "job_id": {"type": ["string", "null"], "description": "of its newest job; null before the first"},
            "retry": {**_COUNT, "description": "how many jobs of the run there were before that one"},
            "reused": {**_FLAG, "description": "the job is one of the run that this one repeats"},
            "phase": {"enum": [*PHASES, None]},
            "start_time": or_null(TIME),
            "end_time": or_null(TIME),
            "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
            "secrets": {**_TEXTS, "description": "names only"},
            "past_seconds": {
                "type": ["number", "null"],
                "description": "what jobs of that name usually take",
            },
        }
    ),
    "RunDetail": closed(
        {**_SUMMARY, "stages": _TEXTS, "jobs": {"type": "array", "items": reference("RunJob")}}
    ),
    "RunRequest": closed(
        {},
        {
            "protocol": {"const": PROTOCOL},
            "plan": {"type": "object", "description": "a plan as `POST /pipelines/check` gives it"},
            "pipeline": {**_TEXT, "description": "without a plan: which pipeline of the project's files"},
            "stages": _TEXTS,
            "jobs": _TEXTS,
            "changed": {**_TEXTS, "description": "changed paths, for jobs with `when`"},
            "tag": _TEXT,
            "keep_going": _FLAG,
            "secrets": {
                "type": "object",
                "additionalProperties": _TEXT,
                "description": "never given out again",
            },
            "timeout": {"type": "number", "exclusiveMinimum": 0, "description": "seconds for the whole run"},
            "submit": {**reference("Options"), "description": "what all its jobs share"},
        },
    ),
    "RunSubmission": {
        "type": "object",
        "properties": {
            "file": {"type": "string", "contentMediaType": "application/zip"},
            "options": reference("RunRequest"),
            "manifest": reference("Manifest"),
        },
    },
    "RerunRequest": closed(
        {},
        {
            "failed": {**_FLAG, "description": "only what did not pass, and what depends on it"},
            "stage": or_null(_TEXT),
            "job": or_null(_TEXT),
            "secrets": {"type": "object", "additionalProperties": _TEXT},
        },
    ),
}

_NULLABLE_TIME: Final[Schema] = or_null(TIME)
SCHEMAS["JobExecution"] = closed(
    {
        "id": _UUID,
        "status": WORD,
        "startTime": _NULLABLE_TIME,
        "completionTime": _NULLABLE_TIME,
        "allowFailure": _FLAG,
        "exitCode": {"type": ["integer", "null"]},
        "reason": _OR_TEXT,
    }
)
SCHEMAS["JobReport"] = closed(
    {
        "name": _TEXT,
        "executions": {"type": "array", "items": reference("JobExecution")},
        "pipelineName": _TEXT,
        "runNumber": _COUNT,
        "commitHash": DIGEST,
        "stageName": _TEXT,
        "status": WORD,
        "reason": _OR_TEXT,
    }
)
SCHEMAS["StageReport"] = closed(
    {
        "id": _UUID,
        "name": _TEXT,
        "status": WORD,
        "startTime": _NULLABLE_TIME,
        "completionTime": _NULLABLE_TIME,
        "jobs": {"type": "array", "items": reference("JobReport")},
    },
    {"pipelineName": _OR_TEXT, "runNumber": {"type": ["integer", "null"]}, "commitHash": or_null(DIGEST)},
)
SCHEMAS["PipelineReport"] = closed(
    {
        "id": _UUID,
        "name": _TEXT,
        "runNumber": _COUNT,
        "commitHash": {**DIGEST, "description": "of the workspace: what ran is a working tree"},
        "status": WORD,
        "startTime": _NULLABLE_TIME,
        "completionTime": _NULLABLE_TIME,
        "stages": {"type": "array", "items": reference("StageReport")},
        "reason": _OR_TEXT,
    },
    {"pipelineName": _TEXT},
)

#: Paths below `/reports/pipelines`: everything, a history, a run, one of its stages, a job of the stage.
REPORT_PATHS: Final = (
    "",
    "/{name}",
    "/{name}/runs/{run_number}",
    "/{name}/runs/{run_number}/stages/{stage}",
    "/{name}/runs/{run_number}/stages/{stage}/jobs/{job}",
)

_RUN_ID: Final[Schema] = {"name": "run_id", "in": "path", "required": True, "schema": _TEXT}


def paths() -> dict[str, Schema]:
    """Return the paths about runs."""
    whole = content(reference("RunDetail"), "The run and its jobs.")
    own = (401, 403, 404, 503)
    return {
        "/runs": {"get": _list(), "post": _submit(whole)},
        "/runs/{run_id}": {
            "get": operation("One run", {200: whole}, own, parameters=[_RUN_ID]),
            "delete": operation(
                "Cancel a run, or a stage or a job of it",
                {202: whole},
                (*own, 409),
                parameters=[
                    _RUN_ID,
                    query("stage", _TEXT, "only this stage"),
                    query("job", _TEXT, "only this job, or all cells of it"),
                ],
            ),
        },
        "/runs/{run_id}/stream": {"get": _stream(own)},
        "/runs/{run_id}/rerun": {
            "post": operation(
                "Run it again on the same workspace",
                {200: content(reference("RunDetail"), "The new run.")},
                (401, 403, 404, 409, 413, 422, 429, 503),
                requestBody={"content": {"application/json": {"schema": reference("RerunRequest")}}},
                parameters=[_RUN_ID, IDEMPOTENCY],
            )
        },
        "/pipelines/{name}/runs/{run_number}": {
            "get": operation(
                "One run by its number",
                {200: whole},
                (401, 404, 422, 503),
                parameters=[
                    {"name": "name", "in": "path", "required": True, "schema": _TEXT},
                    {"name": "run_number", "in": "path", "required": True, "schema": {"type": "integer"}},
                ],
            )
        },
        "/pipelines/{name}/durations": {
            "get": operation(
                "How long its jobs usually take",
                {
                    200: content(
                        {"type": "object", "additionalProperties": {"type": "number"}}, "Seconds by name."
                    )
                },
                (401, 503),
                parameters=[_path("name")],
            )
        },
        **_reports(),
    }


def _path(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": _TEXT}


def _reports() -> dict[str, Schema]:
    kinds = ("PipelineReport", "PipelineReport", "PipelineReport", "StageReport", "JobReport")
    history = [
        query("stage", _TEXT, "a history of this stage"),
        query("job", _TEXT, "a history of this job of the stage"),
        query("status", {"enum": list(STATUSES)}, "only runs with this status"),
        query("since", TIME, "only runs submitted then or later"),
        query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}, "most runs"),
        query("before", _TEXT, "id of a run: the page behind it"),
    ]
    link = {"Link": {"schema": _TEXT, "description": 'rel="next" when there is more'}}
    found: dict[str, Schema] = {}
    for path, kind in zip(REPORT_PATHS, kinds, strict=True):
        names = [_path(part[1:-1]) for part in path.split("/") if part.startswith("{")]
        is_list = "runs" not in path
        one: Schema = reference(kind)
        if is_list:
            kinds_of_history = [reference(name) for name in ("PipelineReport", "StageReport", "JobReport")]
            one = {"type": "array", "items": {"oneOf": kinds_of_history}}
        answer = content(one, "Newest first." if is_list else "The report.")
        if is_list:
            answer["headers"] = link
        found[f"/reports/pipelines{path}"] = {
            "get": operation(
                "What runs came to" if is_list else f"What it came to ({kind})",
                {200: answer},
                (401, 404, 422, 503),
                parameters=[*names, *(history if is_list else [])],
            )
        }
    return found


def _list() -> Schema:
    link = {"Link": {"schema": _TEXT, "description": 'rel="next" when there is more'}}
    return operation(
        "Your runs, newest submission first",
        {200: content({"type": "array", "items": reference("RunSummary")}, "Summaries.", headers=link)},
        (401, 404, 422, 503),
        parameters=[
            query("pipeline", _TEXT, "only runs of this pipeline"),
            query("status", {"enum": list(STATUSES)}, "only runs with this status"),
            query("since", TIME, "only runs submitted then or later"),
            query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1000}, "most runs"),
            query("before", _TEXT, "id of a run: the page behind it"),
        ],
    )


def _submit(whole: Schema) -> Schema:
    body: dict[str, Any] = {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": reference("RunSubmission"),
                "encoding": {"file": {"contentType": "application/zip"}},
            }
        },
    }
    return operation(
        "Submit a project and run a pipeline on it",
        {200: whole},
        (400, 401, 409, 413, 422, 429, 503, 507),
        requestBody=body,
        parameters=[IDEMPOTENCY],
    )


def _stream(own: tuple[int, ...]) -> Schema:
    number = {"type": "integer", "minimum": 0}
    return operation(
        "Follow a run",
        {200: events("Events of all its jobs, each with `job` and `job_id`, then `run_complete`.")},
        (*own, 422, 429),
        parameters=[
            _RUN_ID,
            query("from_beginning", {"type": "boolean", "default": False}, "all events, not only new ones"),
            query("after", number, "only events numbered above this, in the run's own numbers"),
            {"name": "Last-Event-ID", "in": "header", "schema": number, "description": "goes before `after`"},
            VIEW,
        ],
    )
