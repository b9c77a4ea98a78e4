"""Answers that the HTTP server gives by itself, before a request reaches the application."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from waitress.task import ErrorTask
from waitress.utilities import Error

from ci_runner.errors import NotAuthenticated, RunnerError, TooManyRequests

DISK_FULL: Final = "The runner's disk is full; nothing was kept"


class Refusal(Error):  # an answer, no exception
    """An answer that is given before the body is read."""

    def __init__(self, code: int, reason: str, detail: str, *headers: tuple[str, str]) -> None:
        super().__init__(detail)
        self.code = code
        self.reason = reason
        self.headers = headers


def unauthorized(detail: str) -> Refusal:
    """401, as the application answers it."""
    return Refusal(401, "Unauthorized", detail, ("WWW-Authenticate", "Bearer"))


def too_many(detail: str, seconds: float, *headers: tuple[str, str]) -> Refusal:
    """429, to be tried again after `seconds`."""
    return Refusal(429, "Too Many Requests", detail, ("Retry-After", str(math.ceil(seconds))), *headers)


def busy(detail: str, seconds: float) -> Refusal:
    """503, to be tried again after `seconds`."""
    return Refusal(503, "Service Unavailable", detail, ("Retry-After", str(math.ceil(seconds))))


def disk_full() -> Refusal:
    """The answer when nothing more can be kept."""
    return Refusal(507, "Insufficient Storage", DISK_FULL, ("Retry-After", "30"))


def of_key_check(error: RunnerError) -> Refusal:
    """The answer to a request whose key was looked up in vain."""
    if isinstance(error, NotAuthenticated):
        return unauthorized(str(error))
    if isinstance(error, TooManyRequests):
        return too_many(str(error), error.retry_after, *error.headers)
    return busy("The runner cannot check keys now; its operator finds the reason in its log", 5)


class JsonErrorTask(ErrorTask):
    """Errors of the server itself in the contract's form."""

    def execute(self: Any) -> None:
        """Answer and close."""
        error = self.request.error
        body = json.dumps({"detail": _detail(error)}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.response_headers.extend(getattr(error, "headers", ()))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body if self.request.command != "HEAD" else b"")


def _detail(error: Any) -> str:
    if isinstance(error, Refusal):
        return str(error.body)
    if error.code == 413:
        return "The body is larger than this runner takes"
    return str(error.reason) if error.code == 500 else f"{error.reason}: {error.body}"
