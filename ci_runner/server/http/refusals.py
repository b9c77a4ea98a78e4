"""Responses of the HTTP server itself, sent before a request reaches the application."""

from __future__ import annotations

import json
import math
from typing import Final, Protocol

from waitress.task import ErrorTask
from waitress.utilities import Error

from ci_runner.errors import NotAuthenticated, RunnerError, TooManyRequests

DISK_FULL: Final = "The runner's disk is full; nothing was stored"


class Refusal(Error):  # a response, not an exception
    """A response that is sent before the body is read."""

    def __init__(self, code: int, reason: str, detail: str, *headers: tuple[str, str]) -> None:
        super().__init__(detail)
        self.code = code
        self.reason = reason
        self.headers = headers


def unauthorized(detail: str) -> Refusal:
    """Return a 401 response, equal to the application's."""
    return Refusal(401, "Unauthorized", detail, ("WWW-Authenticate", "Bearer"))


def too_many(detail: str, seconds: float, *headers: tuple[str, str]) -> Refusal:
    """Return a 429 response; the client should retry after `seconds`."""
    return Refusal(429, "Too Many Requests", detail, ("Retry-After", str(math.ceil(seconds))), *headers)


def busy(detail: str, seconds: float) -> Refusal:
    """Return a 503 response; the client should retry after `seconds`."""
    return Refusal(503, "Service Unavailable", detail, ("Retry-After", str(math.ceil(seconds))))


def disk_full() -> Refusal:
    """Return the response for a full disk."""
    return Refusal(507, "Insufficient Storage", DISK_FULL, ("Retry-After", "30"))


def of_key_check(error: RunnerError) -> Refusal:
    """Return the response to a request with a key that was not accepted."""
    if isinstance(error, NotAuthenticated):
        return unauthorized(str(error))
    if isinstance(error, TooManyRequests):
        return too_many(str(error), error.retry_after, *error.headers)
    return busy("The runner cannot check keys now; see the runner's log", 5)


class _Request(Protocol):
    """What a response of the server itself has to know of its request."""

    error: Error | None
    command: str


class JsonErrorTask(ErrorTask):
    """Sends errors of the server itself in the contract's form."""

    request: _Request  # type: ignore[assignment]  # the stubs name an error
    response_headers: list[tuple[str, str]]

    def execute(self) -> None:
        """Send the response and close the connection."""
        error = self.request.error
        assert error is not None
        body = json.dumps({"detail": _detail(error)}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.response_headers.extend(getattr(error, "headers", ()))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body if self.request.command != "HEAD" else b"")


def _detail(error: Error) -> str:
    if isinstance(error, Refusal):
        return str(error.body)
    if error.code == 413:
        return "The body is larger than this runner accepts"
    return str(error.reason) if error.code == 500 else f"{error.reason}: {error.body}"
