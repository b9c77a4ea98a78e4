"""The interface of the reference system's client library: one function per task, built on `client`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from pytest_remote_ci.client.client import AuthenticationFailed, Client, with_key_help
from pytest_remote_ci.client.delta import WorkspaceUpload, deliver
from pytest_remote_ci.client.embedded_runner import DEFAULT_URL
from pytest_remote_ci.errors import ClientError
from pytest_remote_ci.workspace.collect import collect

#: An event as it was sent.
Event: TypeAlias = dict[str, object]


def submit_tests_streaming(
    project_dir: Path | str, server_url: str = DEFAULT_URL, api_key: str | None = None
) -> Iterator[Event]:
    """Submit a folder and yield `job_id`, `log`… and `complete` events.

    A refused key raises RuntimeError. Every other error is yielded as a `log` event and an unsuccessful `complete`.
    """
    try:
        with Client(server_url, api_key) as client:
            job_id = _submit_folder(client, Path(project_dir))
            yield {"type": "job_id", "job_id": job_id}
            for event in client.stream(job_id):
                yield dict(event.fields)
    except AuthenticationFailed as error:
        raise with_key_help(error) from error
    except (ClientError, OSError) as error:
        yield from _failure(f"Error submitting to CI server: {error}")


def submit_tests_async(
    project_dir: Path | str, server_url: str = DEFAULT_URL, api_key: str | None = None
) -> str:
    """Submit a folder and return its job's id. A refused key raises RuntimeError, other errors a `ClientError`."""
    try:
        with Client(server_url, api_key) as client:
            return _submit_folder(client, Path(project_dir))
    except AuthenticationFailed as error:
        raise with_key_help(error) from error


def wait_for_job(
    job_id: str, server_url: str = DEFAULT_URL, from_beginning: bool = False, api_key: str | None = None
) -> Iterator[Event]:
    """Yield a job's events, only new ones unless `from_beginning`; errors as in `submit_tests_streaming`."""
    try:
        with Client(server_url, api_key) as client:
            for event in client.stream(job_id, from_beginning=from_beginning):
                yield dict(event.fields)
    except AuthenticationFailed as error:
        raise with_key_help(error) from error
    except (ClientError, OSError) as error:
        yield from _failure(f"Error waiting for job: {error}")


def list_jobs(server_url: str = DEFAULT_URL, api_key: str | None = None) -> list[dict[str, object]]:
    """Return summaries of the key owner's jobs. A refused key raises RuntimeError, other errors a `ClientError`."""
    try:
        with Client(server_url, api_key) as client:
            return [dict(job.fields) for job in client.jobs()]
    except AuthenticationFailed as error:
        raise with_key_help(error) from error


def _submit_folder(client: Client, folder: Path) -> str:
    key = uuid.uuid4().hex

    def send(parcel: WorkspaceUpload) -> str:
        return client.submit(parcel.archive, manifest=parcel.manifest, idempotency_key=key)

    return deliver(client, collect(folder), send, again=lambda: collect(folder))


def _failure(text: str) -> Iterator[Event]:
    yield {"type": "log", "data": f"{text}\n"}
    yield {"type": "complete", "success": False}
