"""The schemas of the OpenAPI document: made by msgspec from the types that the server uses.

What a type cannot express is added here: which fields each kind of event has, and the checks of submission options,
which the client shares and which therefore know nothing of msgspec.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, cast

import msgspec

from ci_runner.model.job import JobSummary
from ci_runner.model.json_schema import Schema
from ci_runner.pipelines import check, plan, plan_json, report, request
from ci_runner.server import schemas
from pytest_remote_ci.wire import checks, keep, limits, system_packages
from pytest_remote_ci.wire.interpreter_options import MAX_OPTIONS, as_interpreter_options
from pytest_remote_ci.wire.protocol import CHECKS, PHASES, PROTOCOL, STRICT_PROTOCOL, TERMINAL_STATUSES
from pytest_remote_ci.wire.timing import CLIENT_PHASES, as_client_phases

_TEMPLATE: Final = "#/components/schemas/{name}"
#: The types of whole bodies; those in them follow.
BODIES: Final = (
    schemas.Error,
    schemas.JobCreated,
    JobSummary,
    schemas.Event,
    schemas.Artifact,
    schemas.Changes,
    schemas.TestResult,
    schemas.TestReport,
    schemas.KeptFolder,
    schemas.Cleared,
    schemas.Submission,
    schemas.RunSubmission,
    schemas.RunSummary,
    schemas.RunDetail,
    request.RerunRequest,
    report.PipelineReport,
    report.StageReport,
    report.JobReport,
    check.PipelineQuestion,
    check.PipelineAnswer,
    schemas.Health,
    schemas.Readiness,
    schemas.SubmittedService,
)

#: Dataclasses: `decode` refuses fields that they do not have, and responses have no others.
_CLOSED: Final = (
    plan.Plan,
    plan.PlannedJob,
    plan.Retries,
    plan.Service,
    request.RunRequest,
    request.RerunRequest,
    report.PipelineReport,
    report.StageReport,
    report.JobReport,
    report.JobExecution,
)

#: What a check of submission options accepts, beyond the type of the field.
_BOUNDS: Final[Mapping[Callable[..., object], Schema]] = {
    checks.as_positive: {"exclusiveMinimum": 0, "exclusiveMaximum": 1e9},
    checks.as_bytes: {"type": ["integer", "string", "null"], "examples": ["2g", 1073741824]},
    checks.as_limit_size: {"type": ["integer", "string", "null"], "examples": ["2g", 1073741824]},
    checks.as_open_files: {"minimum": limits.LEAST_FILES, "maximum": limits.MOST_FILES},
    checks.as_globs: {"maxItems": checks.MAX_PATTERNS, "examples": [["dist/*.whl", "logs"]]},
    checks.as_keep: {
        "maxItems": keep.MAX_PATTERNS,
        "examples": [[".hypothesis", ".mypy_cache", "~/.cache/ms-playwright"]],
    },
    checks.as_packages: {"maxItems": system_packages.MAX_PACKAGES, "examples": [["libcairo2-dev"]]},
    checks.as_services: {"maxItems": checks.MAX_SERVICES},
    checks.as_columns: {"minimum": 1, "maximum": 10_000},
    as_client_phases: {
        "properties": {name: {"type": "number", "minimum": 0} for name in CLIENT_PHASES},
    },
    checks.as_restarts: {"minimum": 0, "maximum": 100},
    checks.as_python: {"examples": ["3.12"]},
    as_interpreter_options: {"maxItems": MAX_OPTIONS, "examples": [["-Werror", "-O", "-Xdev"]]},
}
_ABOUT: Final = {
    "args": "arguments of pytest",
    "root": "absolute path of the project on the client",
    "cwd": "folder below the root in which pytest runs",
    "project_folder": "the folder of the workspace that is the root, if other folders travel beside the project",
    "module": "run as `python -m pytest` does",
    "interpreter_options": "options of the interpreter that runs pytest, each as one argument",
    "timeout": "seconds of testing",
    "packages": "packages of the image's distribution to install, if the operator allows them",
    "git": "whether the workspace has a git repository of the client's making",
    "cold_start": "whether a new container is started, even if one waits for a job like this one",
    "artifacts": "files to keep after the run",
    "artifacts_days": "shorter than the runner's default",
    "keep": "files that the next job of the same user and project gets",
    "timing": "seconds of the phases before the upload, as the client measured them",
    "reports": "reports to keep when the run made any",
}

#: Kind of event → the fields that it always has, and what is special about them.
_EVENTS: Final[Mapping[str, tuple[tuple[str, ...], dict[str, Schema]]]] = {
    "run_job": (("job", "status"), {}),
    "run_complete": (("run_id", "success", "status", "reason"), {}),
    "job_id": (("job_id",), {}),
    "log": (("data",), {}),
    "complete": (
        ("success", "status", "exit_code", "reason"),
        {"status": {"enum": [*sorted(TERMINAL_STATUSES)]}},
    ),
    "state": (
        ("phase",),
        {"phase": {"enum": list(PHASES)}, "queue_position": {"type": "integer", "minimum": 1}},
    ),
}


#: Any JSON: msgspec needs a schema that is not empty.
_ANY: Final[Schema] = {"description": "any value"}


def _schema_of_other(kind: type) -> dict[str, object]:
    """Return the schema of a type that msgspec does not know: any JSON for `object`."""
    assert kind is object, kind
    return {**_ANY}


def schema_of(kind: object) -> Schema:
    """Return the schema of a type: a reference, if it is one of the components."""
    (found,), _ = msgspec.json.schema_components([kind], schema_hook=_schema_of_other, ref_template=_TEMPLATE)
    return cast(Schema, found)


def make() -> dict[str, Schema]:
    """Return all schemas by name."""
    _, made = msgspec.json.schema_components(BODIES, schema_hook=_schema_of_other, ref_template=_TEMPLATE)
    found = cast("dict[str, Schema]", made)
    for kind in _CLOSED:
        found[kind.__name__]["additionalProperties"] = False
    _add_events(found["Event"])
    _add_checks(found["SubmitOptions"])
    del found[checks.ServiceOptions.__name__]  # `SubmittedService` stands for it: its check refuses more
    whole = found["Plan"]
    whole["properties"] = {"version": {"const": plan_json.VERSION}, **whole["properties"]}
    whole["required"] = ["version", *whole["required"]]
    return found


def _add_events(event: Schema) -> None:
    event["allOf"] = [
        {
            "if": {"properties": {"type": {"const": kind}}},
            "then": {"required": list(required), "properties": special},
        }
        for kind, (required, special) in _EVENTS.items()
    ]


def _add_checks(options: Schema) -> None:
    properties = options["properties"]
    for name, schema in properties.items():
        bounds = _BOUNDS.get(CHECKS[name], {})
        kinds = schema.get("anyOf")
        if schema.get("additionalProperties") == _ANY:
            del schema["additionalProperties"]  # as without it
        if name == "services":
            schema["items"] = schema_of(schemas.SubmittedService)
        if "type" in bounds:
            properties[name] = {**bounds}
        elif kinds is not None:
            kinds[0].update(bounds)
        else:
            schema.update(bounds)
        if name in _ABOUT:
            properties[name]["description"] = _ABOUT[name]
    properties["secrets"] = {
        "type": ["object", "null"],
        "additionalProperties": {"type": "string"},
        "description": "for a job of its own: variables whose values are stored encrypted, masked, never given out",
    }
    options["properties"] = {"protocol": {"enum": [PROTOCOL, STRICT_PROTOCOL]}, **properties}
