"""Talking to a Docker engine: one lazily made client, and its errors put into our words.

Only this module and those beside it named `docker*` know the SDK. Calls have deadlines; a call that did not
get its answer in time has decided nothing (`EngineUnavailable`).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any, Final

import docker
import docker.errors
import requests
import urllib3

from ci_runner.errors import EngineUnavailable, PermanentError, RunnerError

log = logging.getLogger(__name__)

DEFAULT_URL: Final = "unix:///var/run/docker.sock"

#: Texts of 5xx answers that would come again: the request itself is at fault.
_PERMANENT: Final = (
    "OCI runtime create failed",
    "failed to mount local volume",
    "error while creating mount source path",
    "invalid mount config",
    "not a directory",
    "Minimum memory limit",
)


class DockerAPI:
    """The SDK's low-level client, made at first use and again after it could not be made."""

    def __init__(self, base_url: str | None = None, timeout: float = 60.0) -> None:
        self.base_url = base_url or DEFAULT_URL
        self.timeout = timeout
        self._lock = threading.Lock()
        self._client: Any = None

    def open(self) -> Any:
        """A new client of the engine's own API version; the caller closes it. Raises `EngineUnavailable`."""
        self._knock()
        with translated("reach the engine"):
            return docker.APIClient(
                base_url=self.base_url, version="auto", timeout=self.timeout, num_pools=4, max_pool_size=32
            )

    @property
    def client(self) -> Any:
        """The shared client; usable from any thread."""
        with self._lock:
            if self._client is None:
                self._client = self.open()
            else:
                self._knock()
            return self._client

    def _knock(self) -> None:
        """Fail early where nobody listens: the SDK leaves its socket open when it cannot connect."""
        if not self.base_url.startswith("unix://"):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(self.timeout)
            try:
                connection.connect(self.base_url.removeprefix("unix://"))
            except OSError as error:
                raise EngineUnavailable(f"no Docker engine answers at {self.base_url}: {error}") from error

    def close(self) -> None:
        """Close every connection; the next use opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


@contextlib.contextmanager
def translated(action: str) -> Iterator[None]:
    """Turn whatever the SDK raises inside into the runner's errors; `action` says what could not be done."""
    try:
        yield
    except docker.errors.APIError as error:
        raise from_answer(action, error.status_code, str(error.explanation or error)) from error
    except docker.errors.NullResource as error:
        raise PermanentError(f"could not {action}: no name was given") from error
    except (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise EngineUnavailable(f"could not {action}: {_innermost(error)}") from error
    except (OSError, ValueError) as error:
        # A connection that breaks within an answer surfaces as whatever was being parsed.
        raise EngineUnavailable(f"could not {action}: {error}") from error


def from_answer(action: str, status: int | None, explanation: str) -> RunnerError:
    """The error for an answer of the engine: 4xx and what would come again are permanent."""
    text = f"could not {action}: {explanation.strip()}"
    if status is not None and 400 <= status < 500:
        return PermanentError(text)
    if any(sign in explanation for sign in _PERMANENT):
        return PermanentError(text)
    return EngineUnavailable(text)


def status_of(error: RunnerError) -> int | None:
    """The HTTP status behind a translated error, if there was an answer at all."""
    cause = error.__cause__
    return cause.status_code if isinstance(cause, docker.errors.APIError) else None


def _innermost(error: BaseException) -> BaseException:
    """The cause that says something ("No such file or directory"), out of the SDK's wrappings."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        error = error.__cause__ or error.__context__ or error
    return error
