"""Fetch the artifacts of a run's jobs, with a folder for each job."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from pytest_remote_ci.artifacts.artifact_folder import ArtifactFolder
from pytest_remote_ci.artifacts.fetch import ArtifactFetcher
from pytest_remote_ci.terminal.status_line import StatusLine

if TYPE_CHECKING:
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.wire.answers import RunJob


def fetch(
    client: Client,
    jobs: Iterable[RunJob],
    base: ArtifactFolder,
    line: StatusLine,
    print_message: Callable[[str], None],
) -> bool:
    """Fetch the artifacts of these jobs of a run into folders of `base`; return whether all of them arrived.

    Raises `ClientError`, OSError.
    """
    is_complete = True
    for job in jobs:
        job_id = job.job_id
        if job_id is not None and client.artifacts(job_id):
            fetcher = ArtifactFetcher(client, job_id, base.below(job.name), line, print_message)
            is_complete = fetcher.fetch_all() and is_complete
    return is_complete
