"""Holds every answer that a test sees against the OpenAPI document of the server."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import requests

from ci_runner.server.openapi.document import document

#: Answers of the HTTP server itself (docs/reference/wire.md).
_HTTP_ERRORS = {400, 404, 405, 408, 431, 501, 505}
_ERROR = {"$ref": "#/components/schemas/Error"}
_EVENT = {"$ref": "#/components/schemas/Event"}


@functools.cache
def plain_document() -> dict[str, Any]:
    """The document, as its readers get it."""
    found: dict[str, Any] = json.loads(json.dumps(document()))
    return found


def operation_of(method: str, path: str) -> dict[str, Any] | None:
    """What the document says about a request, or None for a route it does not know."""
    for template, operations in plain_document()["paths"].items():
        pattern = re.sub(r"\{[^}]+\}", "[^/]+", template.replace("{path}", ".+"))
        if re.fullmatch(pattern, path):
            operation: dict[str, Any] | None = operations.get(method.lower())
            return operation
    return None


@functools.cache
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    whole = {"components": document()["components"], **json.loads(schema)}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    return jsonschema.Draft202012Validator(whole, format_checker=checker)


def validate(schema: dict[str, Any], value: Any) -> None:
    """Raise unless `value` is as `schema` says; references are into the document's components."""
    _validator(json.dumps(schema, sort_keys=True)).validate(value)


def validate_response(response: requests.Response) -> None:
    """Raise unless status, headers and body of `response` are as the document says; streams are not read."""
    request = response.request
    assert request.method is not None
    assert request.url is not None
    streamed = response.headers.get("Content-Type", "").startswith("text/event-stream")
    body = b"" if streamed else response.content
    validate_answer(request.method, urlsplit(request.url).path, response.status_code, response.headers, body)


def validate_answer(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Raise unless an answer is as the document says; `headers` without regard to case. Streams are not looked into."""
    if status == 401:
        assert headers["WWW-Authenticate"] == "Bearer"
    if status in (429, 507):
        assert int(headers["Retry-After"]) > 0
    operation = operation_of(method, path)
    if operation is None:
        if status >= 400 and method != "HEAD":
            validate(_ERROR, json.loads(body))
        return
    described = operation["responses"].get(str(status))
    if described is None:
        assert status in _HTTP_ERRORS, f"{method} {path}: {status} is not described: {body[:500]!r}"
        validate(_ERROR, json.loads(body))
        return
    content = described.get("content")
    if content is None or method == "HEAD":
        return
    media = headers["Content-Type"].partition(";")[0]
    assert media in content, f"{method} {path}: {media} is not described for {status}"
    if media == "application/json":
        validate(content[media]["schema"], json.loads(body))
    for name, header in described.get("headers", {}).items():
        if name in headers and header["schema"].get("type") == "integer":
            assert headers[name].isdigit()


def _is_last(event: dict[str, Any]) -> bool:
    """Whether nothing may come behind a `complete`: in a run's stream it carries the name of its job."""
    return event["type"] == "run_complete" or "job" not in event


def validate_stream(frames: Iterable[str]) -> list[dict[str, Any]]:
    """Return the events of one stream's frames; raise unless they are as docs/reference/wire.md says.

    The last frame must be whole.
    """
    events: list[dict[str, Any]] = []
    last = 0
    for frame in frames:
        fields = dict(line.split(": ", 1) for line in frame.split("\n") if not line.startswith(":"))
        assert fields.keys() <= {"id", "data", "retry"}, f"unknown fields: {frame!r}"
        if "data" not in fields:
            continue
        # In the stream of a run a job's end is followed by other jobs.
        ended = events and events[-1]["type"] in ("complete", "run_complete") and _is_last(events[-1])
        assert not ended, f"something follows `complete`: {frame!r}"
        event = json.loads(fields["data"])
        validate(_EVENT, event)
        if "id" in fields:
            assert int(fields["id"]) > last, f"number {fields['id']} after {last}"
            last = int(fields["id"])
            assert "timestamp" in event, f"a stored event without a time: {frame!r}"
        events.append(event)
    return events
