"""Connection to a Docker engine: one client, made at first use, and the translation of its errors.

Only this module imports the SDK; the package's other modules use its client. Every call has a deadline; a call
without an answer in time raises `EngineUnavailable` and has decided nothing.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
from collections.abc import Iterator
from typing import Final

import docker
import docker.errors
import requests
import urllib3
from docker.utils.socket import frames_iter

from ci_runner.controller.engines.docker.docker_json import Client
from ci_runner.errors import EngineUnavailable, PermanentError, RunnerError

log = logging.getLogger(__name__)

DEFAULT_URL: Final = "unix:///var/run/docker.sock"

#: Texts of 5xx answers that a repetition would not change: the request itself is at fault.
_PERMANENT: Final = (
    "OCI runtime create failed",
    "failed to mount local volume",
    "error while creating mount source path",
    "invalid mount config",
    "not a directory",
    "Minimum memory limit",
)


class DockerAPI:
    """The SDK's low-level client, made at first use and made again after a failure."""

    def __init__(self, base_url: str | None = None, timeout: float = 60.0) -> None:
        self.base_url = base_url or DEFAULT_URL
        self.timeout = timeout
        self._lock = threading.Lock()
        self._client: Client | None = None

    def open(self) -> Client:
        """Return a new client with the engine's API version; the caller closes it. Raises `EngineUnavailable`."""
        self._knock()
        with translated("reach the engine"):
            client: Client = docker.APIClient(
                base_url=self.base_url, version="auto", timeout=self.timeout, num_pools=4, max_pool_size=32
            )
            return client

    @property
    def client(self) -> Client:
        """Return the shared client; usable from any thread."""
        with self._lock:
            client = self._client
            if client is None:
                client = self._client = self.open()
                return client
        self._knock()  # without the lock: an engine that hangs accepts no more connections at some point
        return client

    def _knock(self) -> None:
        """Fail early if the engine does not accept connections: the SDK would leave its socket open."""
        if not self.base_url.startswith("unix://"):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(self.timeout)
            try:
                connection.connect(self.base_url.removeprefix("unix://"))
            except PermissionError as error:
                raise EngineUnavailable(
                    f"this user may not use Docker's socket at {self.base_url}; add the user to its group "
                    "(usually `docker`) and log in again, or set DOCKER_HOST"
                ) from error
            except OSError as error:
                raise EngineUnavailable(f"no Docker engine answers at {self.base_url}: {error}") from error

    def close(self) -> None:
        """Close all connections; the next use opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


@contextlib.contextmanager
def streamed_output(client: Client, execution: str) -> Iterator[Iterator[bytes]]:
    """Start a command that was created in a container; yield an iterator over what it writes until its end.

    There is no limit for the time between two pieces.
    """
    connection = client.exec_start(execution, socket=True)
    try:
        yield (piece for _, piece in frames_iter(connection, tty=False))
    finally:
        connection._response.close()  # the SDK leaves that to the caller; it closes the socket, too


@contextlib.contextmanager
def translated(action: str) -> Iterator[None]:
    """Translate the SDK's exceptions into the runner's errors; `action` names what failed."""
    try:
        yield
    except docker.errors.APIError as error:
        raise from_answer(action, error.status_code, str(error.explanation or error)) from error
    except docker.errors.NullResource as error:
        raise PermanentError(f"could not {action}: no name was given") from error
    except (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise EngineUnavailable(f"could not {action}: {_innermost(error)}") from error
    except (OSError, ValueError) as error:
        # A connection that breaks within an answer surfaces as an error of its parser.
        raise EngineUnavailable(f"could not {action}: {error}") from error


def from_answer(action: str, status: int | None, explanation: str) -> RunnerError:
    """Return the error for an engine's answer: 4xx and known lasting 5xx answers are permanent."""
    text = f"could not {action}: {explanation.strip()}"
    if status is not None and 400 <= status < 500:
        return PermanentError(text)
    if any(sign in explanation for sign in _PERMANENT):
        return PermanentError(text)
    return EngineUnavailable(text)


def status_of(error: RunnerError) -> int | None:
    """Return the HTTP status behind a translated error, or None if there was no answer."""
    cause = error.__cause__
    return cause.status_code if isinstance(cause, docker.errors.APIError) else None


def has_just_ended(text: str) -> bool:
    """Return whether a command found the namespaces of its container gone, whose end the engine has yet to notice."""
    return re.search(r"namespace path: lstat /proc/\d+/ns/\w+: no such file", text) is not None


def _innermost(error: BaseException) -> BaseException:
    """Return the cause with the useful message ("No such file or directory") inside the SDK's wrappers."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        error = error.__cause__ or error.__context__ or error
    return error
