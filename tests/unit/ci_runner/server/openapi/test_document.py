"""The OpenAPI document is valid, and means what it meant when its schemas were written by hand.

`fixtures/openapi.json` is the document of that time. Wording and names of schemas may change; paths, methods,
parameters, statuses, headers, and the values that a schema allows may not, except for what `DIFFERENCES` lists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest
from support.openapi import plain_document

from ci_runner.server.openapi.document import document
from pytest_remote_ci.wire.protocol import SubmitOptions, WireError

Json = dict[str, Any]

BEFORE: Json = json.loads((Path(__file__).parents[4] / "fixtures" / "openapi.json").read_text("utf-8"))
#: Pattern of a place → why the old document was wrong there, or said less than is true.
DIFFERENCES: dict[str, str] = {
    r"^GET /metrics \+operation$": "metrics are new",
    r"^(GET|DELETE) /jobs\b.*\.project \+property$": "the name of the project is new",
    r"^(GET|DELETE) /jobs\b.*\.detail \+property$": "why a waiting job does not start is new",
    r" maximum: None → 1000000000000000$": "larger numbers were always refused",
    r"path run_number minimum: None → 1$": "runs are counted from 1, and 0 was always refused",
    r"^POST /pipelines/check body \.files\[\]": "a pair's parts are described one by one",
    r"^POST /pipelines/check body \.plan \+null": "null always meant that no plan is wanted",
    r"^POST /pipelines/check body \.plan additionalProperties": "unknown fields were always refused",
    r"^POST /pipelines/check 200 \.plan\b": "only three fields of a plan's jobs were described",
    r"^POST /runs body \.options\.plan\b": "nothing of a plan was described",
    r"^POST /runs body \.options\.(changed|pipeline|tag|timeout) \+null": "null always meant: not given",
    r"\.options(\.submit)?\.\w+ \+null": "null always meant: the default",
    r"\.options(\.submit)?\.pip \+property$": "environments never had pip",
    r"\.options(\.submit)?\.\w+ exclusiveMaximum": "larger numbers were always refused",
    r"^POST /runs body \.options\.(pipeline|tag) (max|min)Length": "other lengths were always refused",
    r"\.options(\.submit)?\.(shm_size|tmp_size|home_size|file_size|open_files) \+property$": "limits are new",
    r"\.options(\.submit)?\.secrets \+property$": "secrets of plain jobs are new",
    r"\.options(\.submit)?\.protocol enum": "later clients say which options must not be ignored",
    r"\.options(\.submit)?\.(interpreter_options|project_folder|packages|git) \+property$": "options of later clients",
    r"\.options(\.submit)?\.cold_start \+property$": "options of later clients",
    r"\.services\[\]\.shm_size \+property$": "services had no limits of their own",
    r"\.services\[\]\.(name (pattern|maxLength)|ports\[\] (maximum|minimum))": "others were always refused",
    r"^(GET|DELETE) /kept \+operation$": "kept folders are new",
    r"\.keep \+property$": "kept folders are new",
    r"^GET /jobs/\{job_id\}/changes \+operation$": "changes of the project are new",
    r"^GET /runs/\{run_id\}/events \+operation$": "events of runs could only be streamed",
    r"\.changes \+property$": "changes of the project are new",
    r"\.timing \+property$": "durations of phases are new",
    r" body \.manifest\.(folders|links) \+property$": "later clients send links and empty folders",
    r"^GET /reports/pipelines.* 200 (\[\])?\.pipelineName \+null": "it has the type of a stage's; null is left out",
}
#: What a schema says for people.
WORDING = {"description", "title", "examples"}


def test_the_document_is_valid() -> None:
    # Through JSON, as a client gets it.
    openapi_spec_validator.validate(json.loads(json.dumps(document())))


def resolved(schema: Any, document: Json) -> Any:
    """A schema with each reference replaced by its target; no schema contains itself."""
    if isinstance(schema, list):
        return [resolved(item, document) for item in schema]
    if not isinstance(schema, dict):
        return schema
    rest = {key: resolved(value, document) for key, value in schema.items() if key != "$ref"}
    if "$ref" in schema:
        target: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return {**resolved(target, document), **rest}
    return rest


def alternatives(schema: Json) -> dict[str, Json]:
    """The kinds of values that a schema allows, by name: `null`, `object`, `enum`, …; "any" without a type."""
    found: dict[str, Json] = {}
    for key in ("oneOf", "anyOf"):
        if key in schema:
            rest = {name: value for name, value in schema.items() if name not in (key, *WORDING)}
            for number, each in enumerate(schema[key]):
                for kind, one in alternatives({**rest, **each}).items():
                    # Objects beside others differ by their names.
                    found[kind if kind not in found else f"{kind}{number}"] = one
            return found
    if "const" in schema or "enum" in schema:
        words = schema.get("enum", [schema.get("const")])
        if None in words:
            found["null"] = {}
        rest = {key: value for key, value in schema.items() if key not in ("const", "type")}
        found["enum"] = {**rest, "enum": sorted(word for word in words if word is not None)}
        return found
    kinds = schema.get("type", "any")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        found[kind] = {} if kind == "null" else {key: value for key, value in schema.items() if key != "type"}
    return found


def of_schemas(place: str, old: Json, new: Json) -> Iterator[str]:
    """The places where two resolved schemas differ."""
    before, after = alternatives(old), alternatives(new)
    for kind in sorted(before.keys() | after.keys()):
        if kind not in before or kind not in after:
            yield f"{place} {'-' if kind in before else '+'}{kind}"
            continue
        yield from _of_one_kind(place, before[kind], after[kind])


def _of_one_kind(place: str, old: Json, new: Json) -> Iterator[str]:
    for key in sorted((old.keys() | new.keys()) - WORDING):
        before, after = old.get(key), new.get(key)
        if key == "properties":
            for name in sorted({**(before or {}), **(after or {})}):
                if name not in (before or {}) or name not in (after or {}):
                    yield f"{place}.{name} {'-' if name in (before or {}) else '+'}property"
                else:
                    yield from of_schemas(f"{place}.{name}", (before or {})[name], (after or {})[name])
        elif key == "required":
            if set(before or ()) != set(after or ()):
                yield f"{place} required {sorted(set(before or ()) ^ set(after or ()))}"
        elif key == "items" or (key == "additionalProperties" and isinstance(before, dict)):
            yield from of_schemas(f"{place}[]", before or {}, after if isinstance(after, dict) else {})
        elif key in ("prefixItems", "allOf") and len(before or ()) == len(after or ()):
            for number, (one, other) in enumerate(zip(before or (), after or (), strict=True)):
                yield from of_schemas(f"{place}[{number}]", one, other)
        elif key in ("if", "then"):
            yield from of_schemas(f"{place} {key}", before or {}, after or {})
        elif key == "default" and key not in old:
            pass  # it only says more
        elif before != after:
            yield f"{place} {key}: {before!r} → {after!r}"


def of_documents(old: Json, new: Json) -> Iterator[str]:
    """The places where two documents differ."""
    before, after = resolved(old["paths"], old), resolved(new["paths"], new)
    for path in sorted(before.keys() | after.keys()):
        methods = before.get(path, {}), after.get(path, {})
        for method in sorted(methods[0].keys() | methods[1].keys()):
            place = f"{method.upper()} {path}"
            if method not in methods[0] or method not in methods[1]:
                yield f"{place} {'-' if method in methods[0] else '+'}operation"
            else:
                yield from of_operations(place, methods[0][method], methods[1][method])
    if old["components"]["securitySchemes"] != new["components"]["securitySchemes"]:
        yield "security schemes"


def of_operations(place: str, old: Json, new: Json) -> Iterator[str]:
    """The places where two operations differ."""
    if old["security"] != new["security"]:
        yield f"{place} security"
    named = [
        {f"{item['in']} {item['name']}": item for item in each.get("parameters", ())} for each in (old, new)
    ]
    for name in sorted(named[0].keys() | named[1].keys()):
        if name not in named[0] or name not in named[1]:
            yield f"{place} {'-' if name in named[0] else '+'}{name}"
            continue
        one, other = named[0][name], named[1][name]
        if one.get("required", False) != other.get("required", False):
            yield f"{place} {name} required"
        yield from of_schemas(f"{place} {name}", one["schema"], other["schema"])
    bodies = old.get("requestBody", {}), new.get("requestBody", {})
    if bodies[0].get("required", False) != bodies[1].get("required", False):
        yield f"{place} body required"
    yield from of_contents(f"{place} body", *bodies)
    answers = old["responses"], new["responses"]
    if answers[0].keys() != answers[1].keys():
        yield f"{place} statuses {sorted(answers[0].keys() ^ answers[1].keys())}"
    for status in sorted(answers[0].keys() & answers[1].keys()):
        yield from of_contents(f"{place} {status}", answers[0][status], answers[1][status])


def of_contents(place: str, old: Json, new: Json) -> Iterator[str]:
    """The places where two bodies, with their headers, differ."""
    contents = old.get("content", {}), new.get("content", {})
    if contents[0].keys() != contents[1].keys():
        yield f"{place} media {sorted(contents[0].keys() ^ contents[1].keys())}"
    for media in sorted(contents[0].keys() & contents[1].keys()):
        yield from of_schemas(f"{place} ", contents[0][media]["schema"], contents[1][media]["schema"])
        if contents[0][media].get("encoding") != contents[1][media].get("encoding"):
            yield f"{place} encoding"
    headers = old.get("headers", {}), new.get("headers", {})
    for name in sorted(headers[0].keys() | headers[1].keys()):
        if name not in headers[0] or name not in headers[1]:
            yield f"{place} header {name}"
        else:
            yield from of_schemas(
                f"{place} header {name}", headers[0][name]["schema"], headers[1][name]["schema"]
            )


def test_it_means_what_it_meant() -> None:
    found = list(of_documents(BEFORE, plain_document()))
    new = [place for place in found if not any(re.search(pattern, place) for pattern in DIFFERENCES)]
    assert new == []


def test_every_listed_difference_is_one() -> None:
    found = list(of_documents(BEFORE, plain_document()))
    assert [p for p in DIFFERENCES if not any(re.search(p, place) for place in found)] == []


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (
            "paths./jobs.get.responses.200.content.application/json.schema.items",
            {"type": "string"},
            "GET /jobs 200",
        ),
        ("paths./jobs.get.parameters.0.schema", {"enum": ["queued"]}, "GET /jobs query status"),
        ("paths./jobs.get.security", [], "GET /jobs security"),
        ("paths./jobs.put", {}, "PUT /jobs +operation"),
        ("components.schemas.Options.properties.restarts.maximum", 7, "restarts maximum"),
        ("components.schemas.JobSummary.required", [], "required"),
        ("components.schemas.Event.allOf.3.then.required", [], "then required"),
        ("components.schemas.Manifest.properties.files.items.maxItems", 5, "files[] maxItems"),
    ],
)
def test_a_change_of_meaning_is_found(path: str, value: object, place: str) -> None:
    changed = json.loads(json.dumps(BEFORE))
    target: Any = changed
    *parents, last = path.split(".")
    for part in parents:
        target = target[int(part)] if isinstance(target, list) else target[part]
    target[last] = value
    assert any(place in found for found in of_documents(BEFORE, changed))


@pytest.mark.parametrize(
    ("name", "value", "is_fine"),
    [
        *[(name, 0.5, True) for name in ("timeout", "cpus", "artifacts_days")],
        *[(name, value, False) for name in ("timeout", "cpus", "artifacts_days") for value in (0, 1e9, "1")],
        *[("restarts", value, value in (0, 100)) for value in (-1, 0, 100, 101)],
        *[("columns", value, value in (1, 10_000)) for value in (0, 1, 10_000, 10_001)],
        *[("memory", value, value != 1.5) for value in (1024, "2g", 1.5)],
        *[("artifacts", ["a"] * count, count == 200) for count in (200, 201)],
        *[("network", word, word == "none") for word in ("none", "all")],
        *[("priority", word, word == "low") for word in ("low", "lowest")],
        *[("artifacts_when", word, word == "failure") for word in ("failure", "never")],
        *[
            ("services", [{"name": f"s{number}", "image": "x"} for number in range(n)], n == 8)
            for n in (8, 9)
        ],
        *[("services", [{"name": name, "image": "x"}], name == "db") for name in ("db", "My_DB")],
        *[("services", [{"name": "a", "image": "x", "ports": [port]}], port == 1) for port in (0, 1, 65536)],
        ("services", [{"name": "a", "image": "x", "nine": 9}], False),
        ("args", "-v", False),
        ("module", 1, False),
        ("env", {"A": 1}, False),
        *[(name, None, True) for name in ("root", "python", "image", "timeout", "memory", "network", "name")],
    ],
)
def test_options_are_described_as_they_are_checked(name: str, value: object, is_fine: bool) -> None:
    try:
        SubmitOptions.from_dict({name: value})
    except WireError:
        accepted = False
    else:
        accepted = True
    schema = {**document(), "$ref": "#/components/schemas/SubmitOptions"}
    assert accepted is is_fine
    assert jsonschema.Draft202012Validator(schema).is_valid({name: value}) is is_fine


def test_every_option_is_described() -> None:
    described = document()["components"]["schemas"]["SubmitOptions"]["properties"]
    # Secrets are beside the options that are stored.
    assert described.keys() == {"protocol", "secrets", *SubmitOptions.__dataclass_fields__}
