"""JSON Schemas of the API's requests and responses, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

from ci_runner.model.test_results import OUTCOMES
from pytest_remote_ci.wire.checks import MAX_PATTERNS, MAX_SERVICES
from pytest_remote_ci.wire.protocol import PHASES, PRIORITIES, PROTOCOL, STATUSES, TERMINAL_STATUSES

Schema = dict[str, Any]

TIME: Final[Schema] = {"type": "string", "format": "date-time", "description": "RFC 3339, UTC"}
DIGEST: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "SHA-256"}


def or_null(schema: Schema) -> Schema:
    """Return a schema that allows `schema` or null."""
    return {"oneOf": [schema, {"type": "null"}]}


def reference(name: str) -> Schema:
    """Return a reference to the schema with that name."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None, **more: Any) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        **more,
    }


_TEXT: Final[Schema] = {"type": "string"}
_TEXTS: Final[Schema] = {"type": "array", "items": _TEXT}
_PATTERNS: Final[Schema] = {**_TEXTS, "maxItems": MAX_PATTERNS, "examples": [["dist/*.whl", "logs"]]}
_FLAG: Final[Schema] = {"type": "boolean"}
_SERVICE: Final[Schema] = _object(
    {"name": {**_TEXT, "description": "host name"}, "image": _TEXT},
    {
        "env": {"type": "object", "additionalProperties": _TEXT},
        "health": {
            "type": ["string", "null"],
            "description": "shell command that ends with 0 once it is ready",
        },
        "ports": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "that must accept connections",
        },
        "command": {**_TEXTS, "description": "in place of the image's own"},
    },
    additionalProperties=False,
)
_NUMBER: Final[Schema] = {"type": "number", "exclusiveMinimum": 0}


_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_COUNTS: Final[Schema] = {"type": "object", "additionalProperties": _COUNT}
_SECONDS: Final[Schema] = {"type": "number", "minimum": 0}
_RESULT: Final[dict[str, Schema]] = {
    "id": {**_TEXT, "description": "pytest's node id"},
    "outcome": {"enum": list(OUTCOMES)},
    "duration": {**_SECONDS, "description": "seconds of all phases"},
    "reruns": _COUNT,
    "at": TIME,
}


def _event(kind: str, *required: str, **properties: Schema) -> Schema:
    """Return a schema with the required fields of one type of event."""
    then: Schema = {"required": list(required), "properties": properties}
    return {"if": {"properties": {"type": {"const": kind}}}, "then": then}


SCHEMAS: Final[dict[str, Schema]] = {
    "Error": _object({"detail": {"type": "string", "description": "what is wrong and what to do"}}),
    "JobCreated": _object({"job_id": {"type": "string", "format": "uuid"}}, additionalProperties=False),
    "JobSummary": _object(
        {
            "job_id": {"type": "string", "format": "uuid"},
            "status": {"enum": list(STATUSES)},
            "success": {"type": ["boolean", "null"], "description": "null where there is no verdict"},
            "start_time": or_null(TIME),
            "end_time": or_null(TIME),
            "exit_code": {"type": ["integer", "null"], "description": "the command's own"},
            "reason": {"type": ["string", "null"], "description": "why there is no verdict"},
            "phase": {"enum": list(PHASES)},
            "submitted_at": or_null(TIME),
            "queue_position": {"type": ["integer", "null"], "minimum": 1},
            "name": {"type": ["string", "null"]},
            "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
        {
            "run_id": {"type": "string", "format": "uuid", "description": "only in a run of a pipeline"},
            "stage": _TEXT,
            "planned": {"type": "string", "description": "its name in the run's plan"},
            "retry": {"type": "integer", "minimum": 0},
        },
        additionalProperties=False,
    ),
    "Event": _object(
        {"type": _TEXT},
        {
            "seq": {"type": "integer", "minimum": 1, "description": "number in its job, without gaps"},
            "timestamp": TIME,
            "data": {"type": "string", "description": "text of a `log`; may hold many lines"},
            "stream": {"enum": ["terminal", "stdout", "stderr", "runner"]},
            "job_id": {"type": "string", "format": "uuid"},
            "success": {"type": "boolean"},
            "status": {
                "anyOf": [{"enum": list(STATUSES)}, {"type": "array"}],
                "description": "the job's; of a `report`: category, letter and word",
            },
            "exit_code": {"type": ["integer", "null"]},
            "reason": {"type": ["string", "null"]},
            "cancelled": {"const": True},
            "job": {"type": "string", "description": "in a run's stream: the job's name in the plan"},
            "run_id": {"type": "string", "format": "uuid"},
            "artifacts": _object(
                {
                    "files": {"type": "integer", "minimum": 1},
                    "bytes": {"type": "integer", "minimum": 0},
                    "root": {"type": "string", "description": "where the project lay for the run"},
                },
                description="what the job left behind, with `complete`; absent when it is nothing",
            ),
        },
        allOf=[
            _event("run_job", "job", "status"),
            _event("run_complete", "run_id", "success", "status", "reason"),
            _event("job_id", "job_id"),
            _event("log", "data"),
            _event(
                "complete",
                "success",
                "status",
                "exit_code",
                "reason",
                status={"enum": sorted(TERMINAL_STATUSES)},
            ),
            _event(
                "state",
                "phase",
                phase={"enum": list(PHASES)},
                queue_position={"type": "integer", "minimum": 1},
            ),
        ],
        description="Further types and fields may come at any time; ignore what you do not know.",
    ),
    "Artifact": _object(
        {
            "path": {"type": "string", "description": "relative to the project"},
            "size": {"type": "integer", "minimum": 0},
            "sha256": DIGEST,
            "executable": _FLAG,
            "kept_until": TIME,
        },
        additionalProperties=False,
    ),
    "TestResult": _object(_RESULT, additionalProperties=False),
    "TestReport": _object(
        {
            "kind": _TEXT,
            "runs": {
                "type": "array",
                "description": "the jobs that are looked at, oldest first",
                "items": _object(
                    {
                        "job_id": _TEXT,
                        "workspace": or_null(DIGEST),
                        "at": TIME,
                        "counts": _COUNTS,
                        "duration": _SECONDS,
                    },
                    additionalProperties=False,
                ),
            },
            "tests": {
                "type": "array",
                "items": _object(
                    {
                        "id": _TEXT,
                        "counts": _COUNTS,
                        "pass_rate": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
                        "duration": _SECONDS,
                        "before": or_null({**_SECONDS, "description": "mean of the older half"}),
                        "now": or_null({**_SECONDS, "description": "mean of the newer half"}),
                        "reruns": _COUNT,
                        "flaky_workspaces": _COUNT,
                        "flaky": _FLAG,
                        "failing_since": or_null(_object({"job_id": _TEXT, "at": TIME})),
                        "last": _object({**_RESULT, "job_id": _TEXT}, additionalProperties=False),
                    },
                    additionalProperties=False,
                ),
            },
        },
        additionalProperties=False,
    ),
    "Options": _object(
        {},
        {
            "protocol": {"const": PROTOCOL},
            "args": {**_TEXTS, "description": "arguments of pytest"},
            "root": {"type": "string", "description": "absolute path of the project on the client"},
            "cwd": {"type": "string", "description": "folder below the root in which pytest runs"},
            "module": {**_FLAG, "default": True, "description": "run as `python -m pytest` does"},
            "python": {"type": "string", "examples": ["3.12"]},
            "image": _TEXT,
            "requirements": _TEXTS,
            "extras": _TEXTS,
            "groups": _TEXTS,
            "install_project": _FLAG,
            "env": {"type": "object", "additionalProperties": _TEXT},
            "timeout": {**_NUMBER, "description": "seconds of testing"},
            "cpus": _NUMBER,
            "memory": {"type": ["integer", "string"], "examples": ["2g", 1073741824]},
            "network": {"enum": ["egress", "none"]},
            "artifacts": {**_PATTERNS, "description": "files to keep after the run"},
            "artifacts_when": {"enum": ["always", "success", "failure"], "default": "always"},
            "services": {"type": "array", "items": _SERVICE, "maxItems": MAX_SERVICES},
            "artifacts_days": {**_NUMBER, "description": "shorter than the runner's default"},
            "reports": {**_PATTERNS, "description": "reports to keep when the run made any"},
            "name": _TEXT,
            "priority": {"enum": list(PRIORITIES), "default": "normal"},
            "pytest_version": _TEXT,
            "scm_version": _TEXT,
            "color": _FLAG,
            "columns": {"type": "integer", "minimum": 1, "maximum": 10000},
            "records": _FLAG,
            "restarts": {"type": "integer", "minimum": 0, "maximum": 100, "default": 3},
            "extra": {"type": "object"},
        },
    ),
    "Manifest": _object(
        {
            "files": {
                "type": "array",
                "items": {
                    "type": "array",
                    "prefixItems": [_TEXT, {"type": "integer"}, {"type": "integer", "minimum": 0}, DIGEST],
                    "minItems": 4,
                    "maxItems": 4,
                },
                "description": "[path, mode, size, sha256] of each file",
            }
        },
        {
            "protocol": {"const": PROTOCOL},
            "root": _TEXT,
            "mtimes": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
    ),
    "Submission": _object(
        {},
        {
            "file": {
                "type": "string",
                "contentMediaType": "application/zip",
                "description": "the project; with a manifest: only the missing contents, named by digest",
            },
            "options": reference("Options"),
            "manifest": reference("Manifest"),
        },
    ),
    "PipelineQuestion": _object(
        {
            "files": {
                "type": "array",
                "items": {"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2},
                "minItems": 1,
                "maxItems": 100,
                "description": "[name, text] of each file; the name's ending says whether it is TOML or YAML",
            }
        },
        {
            "plan": _object(
                {},
                {
                    "pipeline": or_null(_TEXT),
                    "stages": _TEXTS,
                    "jobs": _TEXTS,
                    "changed": or_null(
                        {**_TEXTS, "description": "changed paths; null: unknown, nothing is left out"}
                    ),
                    "tag": or_null(_TEXT),
                    "keep_going": or_null(_FLAG),
                },
                description="asks for a plan, too",
            )
        },
    ),
    "PipelineAnswer": _object(
        {
            "valid": _FLAG,
            "problems": {"type": "array", "items": reference("Problem")},
            "pipelines": {
                "type": "array",
                "items": _object(
                    {
                        "name": _TEXT,
                        "file": _TEXT,
                        "line": {"type": ["integer", "null"], "description": "null in TOML"},
                        "stages": _TEXTS,
                        "jobs": _TEXTS,
                    },
                    additionalProperties=False,
                ),
            },
        },
        {
            "plan": reference("Plan"),
            "refused": {"type": "string", "description": "why there is no plan though the files are valid"},
        },
        additionalProperties=False,
    ),
    "Problem": _object(
        {
            "file": _TEXT,
            "line": {
                "type": ["integer", "null"],
                "minimum": 1,
                "description": "null in TOML, but for errors of syntax",
            },
            "column": {"type": ["integer", "null"], "minimum": 1},
            "path": {"type": "string", "description": "the exact key, as jobs[2].needs[0]"},
            "message": _TEXT,
            "severity": {"enum": ["error", "warning"]},
        },
        additionalProperties=False,
    ),
    "Plan": _object(
        {
            "version": {"const": 1},
            "pipeline": _TEXT,
            "stages": _TEXTS,
            "jobs": {"type": "array", "items": _object({"name": _TEXT, "definition": _TEXT, "stage": _TEXT})},
            "keep_going": _FLAG,
        },
        {
            "stage_timeouts": {
                "type": "object",
                "additionalProperties": _NUMBER,
                "description": "stage → seconds",
            }
        },
        additionalProperties=False,
        description="Jobs in order; fields that hold their default are left out (docs/guide/pipelines.md).",
    ),
    "Digests": {"type": "array", "items": DIGEST},
    "Health": _object({"status": {"const": "ok"}}, additionalProperties=False),
    "Published": _object(
        {
            "status": {"enum": ["ready", "not ready"]},
            "checks": {
                "type": "array",
                "items": _object({"name": _TEXT, "ok": _FLAG, "detail": _TEXT}),
            },
        },
        {"detail": _TEXT},
    ),
}
