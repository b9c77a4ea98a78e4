"""All keys of a pipeline: their spellings, values and meanings.

One table for the parser (`parse`), the hints, the documentation and the JSON schema for editors (`python -m
ci_runner.pipelines.reference` writes both). Keys may be written with ``-``, with ``_`` or in camel case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ci_runner.model.json_schema import Schema
from ci_runner.pipelines.parsing import job_values, values
from ci_runner.pipelines.parsing.values import Value, canonical, nearest
from ci_runner.pipelines.source.tree import Table
from pytest_remote_ci.wire import limits

_TEXT: Final[Schema] = {"type": "string", "minLength": 1}
_TEXTS: Final[Schema] = {"type": "array", "items": {"type": "string"}}
_TEXT_OR_TEXTS: Final[Schema] = {"oneOf": [_TEXT, _TEXTS]}
_WORD: Final[Schema] = {"type": ["string", "number", "boolean"]}
_WORDS: Final[Schema] = {"type": "object", "additionalProperties": _WORD}
_POSITIVE: Final[Schema] = {"type": "number", "exclusiveMinimum": 0}
_TIME: Final[Schema] = {
    "oneOf": [_POSITIVE, {"type": "string", "pattern": r"^\s*(\d+(\.\d+)?\s*[smhdw]\s*)+$"}]
}
_SIZE: Final[Schema] = {"type": ["integer", "string"], "examples": ["2g", "512m"]}
_FLAG: Final[Schema] = {"oneOf": [{"type": "boolean"}, {"enum": ["true", "false"]}]}


@dataclass(frozen=True)
class Key:
    """One key."""

    #: Its value and meaning in the documentation.
    value: str
    meaning: str
    schema: Schema
    read: Callable[[Value], object] | None = None
    #: Other names, in addition to spellings of the same name.
    also: tuple[str, ...] = ()


#: Keys of jobs and of ``global``.
SHARED: Final[Mapping[str, Key]] = {
    "image": Key(
        "text", "base image; without one the runner's for `python`", _TEXT, values.image, ("docker-image",)
    ),
    "docker": Key(
        "`{image}`", "as `image`", {"type": "object", "properties": {"image": _TEXT}}, job_values.docker
    ),
    "python": Key('"3.12"', "which Python runs the tests", {"type": ["string", "number"]}, values.python),
    "packages": Key(
        "list of names",
        "packages of the image's distribution to install, such as `libcairo2-dev`, if the operator allows them; "
        "instead of those of `[tool.remote-ci]`",
        _TEXTS,
        job_values.packages,
    ),
    "script": Key(
        "text or list of strings",
        "shell commands, one after the other until one fails; without it the job is pytest",
        _TEXT_OR_TEXTS,
        values.script,
    ),
    "args": Key("list of strings", "pytest's arguments", _TEXTS, values.texts),
    "env": Key(
        "table of strings",
        "environment variables; a job's are added to those of `global`; some are refused (docs/reference/wire.md)",
        _WORDS,
        values.job_variables_of,
    ),
    "secrets": Key(
        "list of names",
        "variables whose values are read from your environment at submission; the runner stores them encrypted "
        "until the run ends",
        _TEXTS,
        job_values.secrets,
    ),
    "working-dir": Key(
        "path",
        "folder below the project in which the job runs; `/app` means the project's folder",
        _TEXT,
        values.working_dir,
    ),
    "allow-failure": Key("true or false", "a failure of this job does not fail the run", _FLAG, values.flag),
    "retries": Key(
        "number, or `{count, exit-codes}`",
        "attempts after faults of the runner or, with `exit-codes`, after these exit codes of the command",
        {
            "oneOf": [
                {"type": "integer", "minimum": 0, "maximum": 10},
                {
                    "type": "object",
                    "properties": {
                        "count": {"type": "integer", "minimum": 0, "maximum": 10},
                        "exit-codes": {
                            "type": "array",
                            "items": {"type": "integer", "minimum": 1, "maximum": 255},
                        },
                    },
                },
            ]
        },
        job_values.retries,
    ),
    "timeout": Key('seconds, or "10m"', "limit for the job's tests or script", _TIME, values.seconds),
    "matrix": Key(
        "table of lists; `include`, `exclude`: lists of tables",
        "one job per combination of values; `python` and `image` set these, others are used as `${axis}` or `{axis}`",
        {"type": "object", "additionalProperties": {"type": "array"}},
        job_values.matrix,
    ),
    "artifacts": Key(
        "list of patterns, or `{paths, when, retention}`",
        'files to store; `when`: always, success or failure; `retention`: days, or a time such as "12h"',
        {
            "oneOf": [
                *_TEXT_OR_TEXTS["oneOf"],
                {
                    "type": "object",
                    "properties": {
                        "paths": _TEXT_OR_TEXTS,
                        "when": {"enum": ["always", "success", "failure"]},
                        "retention": _TIME,
                    },
                    "required": ["paths"],
                },
            ]
        },
        job_values.artifacts,
    ),
    "services": Key(
        "list of tables, or table by name: `{name, image, env, health, ports, command, shm-size}`",
        "programs that run alongside the job, reachable by name; `health`: a command that succeeds once ready",
        {"type": ["array", "object"]},
        job_values.services,
    ),
    "resources": Key(
        f"`{{{', '.join(job_values.RESOURCES)}}}`",
        'processors (1.5), memory ("2g") and [other limits](projects.md#limits)',
        {
            "type": "object",
            "properties": {
                "cpus": _POSITIVE,
                "memory": _SIZE,
                **{limits.key(name): _SIZE for name in limits.SIZES},
                "open-files": {
                    "type": "integer",
                    "minimum": limits.LEAST_FILES,
                    "maximum": limits.MOST_FILES,
                },
            },
            "additionalProperties": False,
        },
        job_values.resources,
    ),
    "when": Key(
        '`{changed, tag}`, "always" or "never"',
        "the job runs only if a changed path matches `changed` and the tag of the run matches `tag`",
        {
            "oneOf": [
                {"enum": ["always", "never"]},
                {
                    "type": "object",
                    "properties": {"changed": _TEXT_OR_TEXTS, "tag": {}},
                    "additionalProperties": False,
                },
            ]
        },
        job_values.when,
    ),
}

#: Keys of jobs only.
JOB: Final[Mapping[str, Key]] = {
    "name": Key("text", "unique in the pipeline; in TOML usually the key of the job's table", _TEXT),
    "stage": Key("text", "one of the pipeline's stages", _TEXT),
    "needs": Key(
        "text or list of names",
        "jobs that must pass first; their artifacts are copied into this job's workspace",
        _TEXT_OR_TEXTS,
    ),
    "dependencies": Key("text or list of names", "as `needs`", _TEXT_OR_TEXTS),
    **SHARED,
}

#: Keys of a stage that is written as a table.
STAGE: Final[Mapping[str, Key]] = {
    "name": Key("text", "unique in the pipeline", _TEXT),
    "jobs": Key("list", "its jobs, unless they are defined below `jobs` of the pipeline", {"type": "array"}),
    "timeout": Key(
        'seconds, or "20m"',
        "limit from the start of its first job: then its jobs are stopped, and jobs that have not "
        "started are dropped",
        _TIME,
        values.seconds,
    ),
}

#: Keys of a pipeline.
PIPELINE: Final[Mapping[str, Key]] = {
    "name": Key("text", "unique in the project; without it the file's name (TOML: the table's key)", _TEXT),
    "stages": Key(
        "list of names, or of tables `{name, jobs, timeout}`",
        "stages run one after the other: a job waits for all jobs of earlier stages",
        {"type": "array"},
    ),
    "jobs": Key("TOML: table by name, or list; YAML: list", "the jobs", {"type": ["object", "array"]}),
    "global": Key("table", "defaults for all jobs", {"type": "object"}),
    "keep-going": Key("true or false", "a failed job cancels only jobs that need it", _FLAG),
    "repository": Key("text", "accepted, but not used: the working tree is run", _TEXT),
    "branch": Key("text", "as `repository`", _TEXT),
}


def read_fields(value: Value, known: Mapping[str, Key], what: str) -> dict[str, Value] | None:
    """Return a table's values by the names of `known`; report unknown and repeated keys.

    `what` describes the owner in messages.
    """
    if not isinstance(value.node, Table):
        value.must("a table")
        return None
    names = {name: name for name in known}
    for name, key in known.items():
        names.update(dict.fromkeys(key.also, name))
    found: dict[str, Value] = {}
    for written, content in value.entries():
        key_name = names.get(canonical(written))
        if key_name is None:
            if not written.startswith("x-"):
                content.problems.error(content.key, content.path, _unknown(written, known, what, content))
        elif key_name in found:
            first = found[key_name]
            content.problems.error(
                content.key, content.path, f"{what} has {key_name!r} twice; first in line {first.key.line}"
            )
        else:
            owner = "" if known is PIPELINE else what
            found[key_name] = replace(content, owner=owner)
    return found


def _unknown(written: str, known: Mapping[str, Key], what: str, value: Value) -> str:
    if known is PIPELINE and canonical(written) in {*JOB, "docker-image"}:
        return f"{written!r} belongs to a job, or to 'global' for all jobs"
    hint = "" if value.problems.are_many else nearest(canonical(written), list(known))
    return f"unknown key {written!r} in {what}{hint}"
