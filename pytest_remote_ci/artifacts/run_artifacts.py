"""Fetch the artifacts of a run's jobs, with a folder for each job."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from pytest_remote_ci.artifacts import coverage
from pytest_remote_ci.artifacts.artifact_folder import ArtifactFolder
from pytest_remote_ci.artifacts.download import shown
from pytest_remote_ci.artifacts.fetch import ArtifactFetcher, relative_path
from pytest_remote_ci.terminal.status_line import StatusLine

if TYPE_CHECKING:
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.wire.answers import RunJob

#: The file in which coverage stores its data.
_DATA: Final = ".coverage"


def fetch(
    client: Client,
    jobs: Iterable[RunJob],
    base: ArtifactFolder,
    line: StatusLine,
    print_message: Callable[[str], None],
    *,
    here: Path | None = None,
    roots: Mapping[str, str] = MappingProxyType({}),
) -> bool:
    """Fetch the artifacts of these jobs of a run into folders of `base`; return whether all of them arrived.

    `here` is the project; `roots`: job's id → the folder that the project had in the job. Coverage data of several
    jobs is made to name the files here, and a line says how to combine it. Raises `ClientError`, OSError.
    """
    is_complete = True
    data: dict[str, list[Path]] = {}
    for job in jobs:
        job_id = job.job_id
        if job_id is not None and client.artifacts(job_id):
            fetcher = ArtifactFetcher(client, job_id, base.below(job.name), line, print_message)
            is_complete = fetcher.fetch_all() and is_complete
            for path, place in fetcher.places.items():
                if path.rpartition("/")[2] == _DATA:
                    coverage.relocate(place, _DATA, roots.get(job_id, ""), str(here or ""))
                    data.setdefault(path, []).append(place)
    for path, places in data.items():
        if len(places) > 1:
            pattern = f"{shlex.quote(relative_path(base.path))}/*/{shlex.quote(shown(path))}"
            print_message(
                f"remote-ci: coverage of {len(places)} jobs; combine it here with: coverage combine --keep {pattern}"
            )
    return is_complete
