"""HTTP requests to one runner: authentication, and mapping of responses and exceptions to client errors.

`pytest_remote_ci.client.client` defines the requests; this module handles `requests` and its failures. The key is
sent in a header only.
"""

from __future__ import annotations

import http.client
import io
import logging
import socket
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
import urllib3

from pytest_remote_ci import __version__
from pytest_remote_ci.client import foreign_answers
from pytest_remote_ci.client.parameters import Parameters
from pytest_remote_ci.errors import (
    ClientError,
    JobNotFound,
    RunnerRefused,
    RunnerUnreachable,
    SubmissionRefused,
)

if TYPE_CHECKING:
    from typing import Protocol

    from typing_extensions import Buffer

    class Readable(Protocol):
        """A body of a request that is read while it is sent."""

        def read(self, size: int = -1, /) -> bytes: ...


_log = logging.getLogger(__name__)

#: The three ways to supply a key, shown after a refusal.
KEY_HELP = """Authentication required. Please provide an API key using one of:
  1. --api-key (remote-ci) or --remote-ci-api-key (pytest)
  2. The environment variable REMOTE_CI_API_KEY or CI_API_KEY
  3. The user file that `remote-ci login` writes (~/.ci/config with a line api_key=... is read as well)"""

#: OpenSSL's reasons for an answer that is not TLS, and the text of Python for a handshake that took too long.
_NOT_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}
)
_HANDSHAKE = "handshake operation timed out"

_REFUSALS = frozenset({400, 409, 413, 415, 422, 429, 507})


class AuthenticationFailed(RunnerRefused, RuntimeError):
    """The key is missing, unknown, revoked or not allowed (401, 403, or 429 after too many wrong keys)."""


class NotOffered(RunnerUnreachable):
    """A server answers, but does not support this request (405, 501): an older runner, or not a runner."""


class Interrupted(ClientError):
    """The connection broke; the same request may be sent again after `retry_after` seconds or more."""

    def __init__(
        self,
        text: str,
        *,
        retry_after: float = 0.0,
        refused: bool = False,
        restarting: bool = False,
        timed_out: bool = False,
    ) -> None:
        super().__init__(text)
        #: Whether the machine answered that nothing listens, as while a runner is restarted.
        self.restarting = restarting
        #: Whether the connection stayed silent for too long.
        self.timed_out = timed_out
        self.retry_after = retry_after
        #: Whether there was no listener, so that nothing of the request can have arrived.
        self.refused = refused


class _Bearer(requests.auth.AuthBase):
    """The key as an auth object. It is not a plain header, because requests would let ~/.netrc replace that."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class Transport:
    """A pool of connections to the runner at `url`. Not thread-safe."""

    def __init__(
        self, url: str, key: str | None, *, connect_timeout: float = 10.0, read_timeout: float = 45.0
    ) -> None:
        self.url = url.rstrip("/")
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise RunnerUnreachable(f"{url!r} is not the address of a runner: write it as http://host:port")
        self._timeouts = (connect_timeout, read_timeout)
        self._session = requests.Session()
        self._session.auth = _Bearer(key)
        self._session.headers["User-Agent"] = f"pytest-remote-ci/{__version__}"
        # A company's proxy cannot reach this machine's own loopback.
        self._session.trust_env = not is_loopback(self.url)

    @property
    def read_timeout(self) -> float:
        """The seconds without a byte after which a connection counts as broken."""
        return self._timeouts[1]

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Parameters | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | Readable | None = None,
        stream: bool = False,
        read_timeout: float | None = None,
    ) -> requests.Response:
        """Send a request and return the response if its status is below 300.

        Raises `Interrupted` if the same request may succeed later (no connection, a broken one, 502 to 504),
        `AuthenticationFailed`, `JobNotFound`, `SubmissionRefused`, or `RunnerUnreachable` for any other status.
        """
        timeouts = (self._timeouts[0], read_timeout or self._timeouts[1])
        try:
            response = self._session.request(
                method,
                self.url + path,
                params=params,
                headers=headers,
                data=data,
                stream=stream,
                timeout=timeouts,
                allow_redirects=False,  # the key must not be sent to a redirect's target
            )
        except requests.RequestException as error:
            _log.debug("%s %s: %s", method, path, type(error).__name__)
            raise self.interrupted(error) from error
        _log.debug("%s %s: %d", method, path, response.status_code)
        if response.status_code < 300:
            return response
        with response:
            raise self._refusal(response)

    def interrupted(self, error: Exception) -> Interrupted:
        """Return an exception of requests as an `Interrupted` with a one-line message."""
        causes = list(_causes(error))
        refused = isinstance(error, requests.exceptions.ConnectTimeout)
        restarting = any(isinstance(cause, ConnectionRefusedError) for cause in causes)
        why = "the connection broke"
        for cause in causes:
            if isinstance(cause, ConnectionRefusedError):
                refused, why = True, "connection refused"
            elif isinstance(cause, socket.gaierror):
                refused, why = True, "unknown host"
            elif isinstance(cause, ssl.SSLCertVerificationError):
                refused, why = True, f"its certificate cannot be verified ({cause.verify_message})"
            elif isinstance(cause, ssl.SSLError) and cause.reason in _NOT_TLS:
                refused, why = True, "it speaks http, not https; write the address with http://"
            elif isinstance(cause, OSError) and _HANDSHAKE in str(cause):
                refused, why = (
                    True,
                    "no TLS handshake in time; if it speaks http, write the address with http://",
                )
            elif type(cause) is http.client.BadStatusLine:
                refused, why = (
                    True,
                    "its answer is not HTTP; if it expects https, write the address with https://",
                )
        if why == "the connection broke" and isinstance(error, requests.Timeout):
            why = "no answer in time"
        elif why == "the connection broke" and isinstance(
            error, (requests.exceptions.InvalidURL, ValueError)
        ):
            refused, why = True, str(error)
        text = f"No runner answers at {self.url}: {why}"
        timed_out = is_timeout(error) and not refused
        return Interrupted(text, refused=refused, restarting=restarting, timed_out=timed_out)

    def _refusal(self, response: requests.Response) -> ClientError:
        status = f"{response.status_code} {response.reason or ''}".rstrip()
        detail = _detail(response)
        status_text = f"{status} ({detail})" if detail else status
        foreign = "" if detail else foreign_answers.describe(response, self.url)
        # A 429 with WWW-Authenticate means too many wrong keys. The runner never sends this for a valid key.
        wrong = response.status_code == 429 and "WWW-Authenticate" in response.headers
        if wrong or response.status_code in (401, 403):
            return AuthenticationFailed(
                foreign or f"Authentication failed: {status_text}{self._advice(response)}"
            )
        if response.status_code == 404:
            return JobNotFound(detail or f"{status} at {self.url}")
        if response.status_code in (502, 503, 504):
            return Interrupted(
                foreign or f"The runner at {self.url} answered {status_text}",
                retry_after=retry_after(response.headers),
            )
        if response.status_code in (405, 501):
            return NotOffered(f"The runner at {self.url} answered {status_text}")
        if response.status_code in _REFUSALS:
            error = SubmissionRefused(foreign or f"The runner refused: {detail}")
            error.status = response.status_code
            error.retry_after = retry_after(response.headers)
            return error
        if 300 <= response.status_code < 400:
            where = response.headers.get("Location", "elsewhere")
            return RunnerUnreachable(
                f"{self.url} redirects to {where}; if that is your runner, configure its address"
            )
        return RunnerUnreachable(foreign or f"The runner at {self.url} answered {status_text}")

    def _advice(self, response: requests.Response) -> str:
        """Return what to do about a key that is not known."""
        if response.status_code != 401:
            return ""
        return f"; give a valid key with `remote-ci login --url {self.url}`"


class Content(io.RawIOBase):
    """The body of a response, read as it arrives. A broken connection raises `Interrupted`."""

    def __init__(self, response: requests.Response, transport: Transport) -> None:
        super().__init__()
        self._response = response
        self._transport = transport

    def readable(self) -> bool:
        """Return True, always."""
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Read into `buffer` for `read`; return the number of bytes, 0 at the end."""
        try:
            target = memoryview(buffer)
            piece: bytes = self._response.raw.read(len(target))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._transport.interrupted(error) from error
        target[: len(piece)] = piece
        return len(piece)

    def skip(self, count: int) -> None:
        """Discard the next `count` bytes."""
        while count > 0 and (piece := self.read(min(count, 1 << 16))):
            count -= len(piece)

    def close(self) -> None:
        """Close the response, and its connection unless all was read."""
        self._response.close()
        super().close()


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of a Retry-After header, in either form; 0 if absent or unreadable, at most 60."""
    text = headers.get("Retry-After", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
            seconds = moment.timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    return min(max(seconds, 0.0), 60.0)


def is_loopback(url: str) -> bool:
    """Return whether `url` names this machine itself."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _detail(response: requests.Response) -> str:
    try:
        body = response.json()
    except (ValueError, requests.RequestException):
        return ""
    detail = body.get("detail") if isinstance(body, dict) else None
    return " ".join(str(detail).split())[:500] if detail else ""


def is_timeout(error: BaseException) -> bool:
    """Return whether an exception of requests means that an open connection stayed silent for too long."""
    return any(isinstance(cause, urllib3.exceptions.ReadTimeoutError) for cause in _causes(error))


def _causes(error: BaseException) -> list[BaseException]:
    """Return `error` and all its causes. Libraries store the cause in three different places."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting and len(found) < 32:
        item = waiting.pop()
        if isinstance(item, BaseException) and item not in found:
            found.append(item)
            waiting.extend([item.__cause__, item.__context__, getattr(item, "reason", None), *item.args])
    return found
