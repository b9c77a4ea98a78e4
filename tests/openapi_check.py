"""Holds every answer that a test sees against the OpenAPI document of the server."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import requests

from ci_runner.server.openapi import document

_HTTP_ERRORS = {404, 405, 431, 501}


def operation_of(method: str, path: str) -> dict[str, Any] | None:
    """What the document says about a request, or None for a route it does not know."""
    for template, operations in document()["paths"].items():
        pattern = re.sub(r"\{[^}]+\}", "[^/]+", template)
        if re.fullmatch(pattern, path):
            return operations.get(method.lower())
    return None


def validate(schema: dict[str, Any], value: Any) -> None:
    """Raise unless `value` is as `schema` says; references are into the document's components."""
    whole = {"components": document()["components"], **schema}
    jsonschema.Draft202012Validator(
        whole, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(value)


def validate_response(response: requests.Response) -> None:
    """Raise unless status, headers and body of `response` are as the document says."""
    request = response.request
    assert request.method is not None
    assert request.url is not None
    path = urlsplit(request.url).path
    status = response.status_code
    error = {"$ref": "#/components/schemas/Error"}
    if status == 401:
        assert response.headers["WWW-Authenticate"] == "Bearer"
    if status in (429, 507):
        assert int(response.headers["Retry-After"]) > 0
    operation = operation_of(request.method, path)
    if operation is None:
        if status >= 400 and request.method != "HEAD":
            validate(error, response.json())
        return
    described = operation["responses"].get(str(status))
    if described is None:
        assert status in _HTTP_ERRORS, f"{request.method} {path}: {status} is not described: {response.text}"
        validate(error, response.json())
        return
    content = described.get("content")
    if content is None or request.method == "HEAD":
        return
    media = response.headers["Content-Type"].partition(";")[0]
    assert media in content, f"{request.method} {path}: {media} is not described for {status}"
    if media == "application/json":
        validate(content[media]["schema"], response.json())
    for name, header in described.get("headers", {}).items():
        if name in response.headers and header["schema"].get("type") == "integer":
            assert response.headers[name].isdigit()
