"""Building blocks shared by several parts of the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

from ci_runner.server.openapi.schemas import Schema, reference

JSON: Final = "application/json"
SSE: Final = "text/event-stream"

ERRORS: Final = {
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
    507: "The runner's disk is full; nothing was kept.",
}

VIEW: Final[Schema] = {
    "name": "view",
    "in": "query",
    "schema": {"enum": ["log", "report", "all"], "default": "log"},
    "description": "`log`: text and the end; `report`: everything but what pytest itself prints; `all`: both",
}
IDEMPOTENCY: Final[Schema] = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "A submission that is repeated with the same key gets the first one's job.",
}


def query(name: str, schema: Schema, text: str) -> Schema:
    """Return a query parameter."""
    return {"name": name, "in": "query", "schema": schema, "description": text}


def content(schema: Schema, text: str, media: str = JSON, **more: Any) -> Schema:
    """Return a response with a body."""
    return {"description": text, "content": {media: {"schema": schema}}, **more}


def events(text: str) -> Schema:
    """Return a response that is a stream of events."""
    return content(
        {"type": "string", "description": "`data:` lines, each one Event as JSON; `id:` lines number them"},
        text,
        SSE,
    )


def operation(
    summary: str, answers: dict[int, Schema], errors: tuple[int, ...], public: bool = False, **more: Any
) -> Schema:
    """Return an operation with its `answers` by status and its `errors`; `public`: without a key.

    Errors that are common to all requests with a key, or with a body, are added automatically.
    """
    responses = {str(status): answer for status, answer in answers.items()}
    always = set() if public else {401, 429, 503}
    with_body = {400, 413, 422, 507} if "requestBody" in more else set()
    for status in sorted({*errors, *always, *with_body} - answers.keys()):
        error = content(reference("Error"), ERRORS[status])
        if status in (429, 503, 507):
            error["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
        if status == 401:
            error["headers"] = {"WWW-Authenticate": {"schema": {"const": "Bearer"}}}
        responses[str(status)] = error
    return {"summary": summary, "responses": responses, "security": [] if public else [{"key": []}], **more}
