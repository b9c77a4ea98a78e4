"""What callers get when a route fails: exceptions become statuses and bodies.

Every body is `{"detail": "..."}` with a text for the caller, without tracebacks or paths of the host. The statuses of
request errors stand in `ci_runner.errors`; refusals before the application is reached are in `server.http.refusals`.
"""

from __future__ import annotations

import errno
import json
import logging
import math
from typing import Final

import falcon

from ci_runner.errors import (
    NotAuthenticated,
    NotFound,
    RequestError,
    RunnerError,
    StorageFull,
    TemporaryError,
    TooManyRequests,
)
from ci_runner.server.http.refusals import DISK_FULL
from ci_runner.server.schemas import Error
from pytest_remote_ci.wire.protocol import WireError

_log = logging.getLogger(__name__)

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
#: The parts of a route's path.
_Params = dict[str, object]


def add_error_handlers(app: falcon.App) -> None:  # type: ignore[type-arg]  # its parameters are not used
    """Let `app` answer all errors in the contract's form."""
    app.set_error_serializer(_serialize)
    app.add_error_handler(Exception, _unexpected)
    app.add_error_handler(OSError, _os_error)
    app.add_error_handler(RunnerError, _runner_error)
    app.add_error_handler(WireError, _wire_error)


def _answer(resp: falcon.Response, status: int, detail: str, retry_after: float | None = None) -> None:
    resp.status = status
    # A quoted text may have lone surrogates, which UTF-8 cannot encode.
    resp.media = Error(detail=detail.encode("utf-8", "backslashreplace").decode("utf-8"))
    if status == 401:
        resp.set_header("WWW-Authenticate", "Bearer")
    if retry_after is not None:
        resp.set_header("Retry-After", str(math.ceil(retry_after)))


def _runner_error(req: falcon.Request, resp: falcon.Response, error: RunnerError, params: _Params) -> None:
    if isinstance(error, TooManyRequests):
        _answer(resp, error.status, str(error), error.retry_after)
        resp.set_headers(list(error.headers))
    elif isinstance(error, RequestError):
        _answer(resp, error.status, str(error))
        if isinstance(error, NotAuthenticated):
            _log.info("refused %s %s from %s: %s", req.method, _logged(req.path), req.remote_addr, error)
    elif isinstance(error, StorageFull):
        _log.error("%s %s: %s", req.method, _logged(req.path), error)
        _answer(resp, 507, DISK_FULL, error.retry_after)
    elif isinstance(error, TemporaryError):
        _answer(resp, 503, str(error), error.retry_after)
    else:
        _log.error("%s %s: %s", req.method, _logged(req.path), error)
        _answer(resp, 503, "The runner cannot work now; see the runner's log", 5)


def _wire_error(req: falcon.Request, resp: falcon.Response, error: WireError, params: _Params) -> None:
    _answer(resp, 422, str(error))


def _os_error(req: falcon.Request, resp: falcon.Response, error: OSError, params: _Params) -> None:
    if error.errno in _FULL:
        _runner_error(req, resp, StorageFull(f"no space left ({error})", retry_after=30), params)
    else:
        _unexpected(req, resp, error, params)


def _unexpected(req: falcon.Request, resp: falcon.Response, error: Exception, params: _Params) -> None:
    if isinstance(error, falcon.HTTPError):
        _serialize(req, resp, error)
        resp.status = error.status
        resp.set_headers(error.headers or {})
        return
    _log.error("%s %s failed", req.method, _logged(req.path), exc_info=error)
    _answer(resp, 500, "Internal server error")


def _serialize(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    """Write an error raised by Falcon in the contract's form."""
    detail = error.description or error.title or "Error"
    if detail == error.title:
        detail = detail.removeprefix(f"{error.status_code} ")
    if isinstance(error, falcon.HTTPRouteNotFound):
        detail = str(NotFound(detail, req.path))
    resp.content_type = falcon.MEDIA_JSON
    resp.data = json.dumps({"detail": detail}).encode()


def _logged(text: str) -> str:
    """Return a client's text for a log line: one line, bounded."""
    return ascii(text[:200])
