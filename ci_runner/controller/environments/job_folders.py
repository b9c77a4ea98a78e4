"""`JobFolders`: the working folders of jobs, below ``work/`` of the data directory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

from ci_runner.dependencies.install_plan import mount_point
from ci_runner.errors import PermanentError
from ci_runner.model.job import Job

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class JobFolders:
    """The working folders; see the module. Thread-safe."""

    def __init__(self, data: Path, owner: int | None, isolates: Callable[[], bool]) -> None:
        """`owner`: the uid of jobs, None if the runner's own; `isolates`: whether the engine has mounts."""
        self._data = data
        self._owner = owner
        self._isolates = isolates

    def of(self, job_id: str, part: int | str) -> Path:
        """Return the folder of an attempt (its number), or of what all attempts share (``own``)."""
        if not _ID.fullmatch(job_id):
            raise PermanentError(f"{job_id!r} is not the id of a job")
        return self._data / "work" / f"{job_id}-{part}"

    def all_of(self, job_id: str) -> list[Path]:
        """Return the folders of all attempts and builds; [] if this is not the id of a job."""
        if not _ID.fullmatch(job_id):
            return []
        return list((self._data / "work").glob(f"{job_id}-*"))

    def make(self, work: Path, *parts: str) -> None:
        """Make the parts of a folder (default: those of an attempt), for the job's uid."""
        for part in parts or ("upper", "work", "spool"):
            (work / part).mkdir(mode=0o755, parents=True, exist_ok=True)
            # Without isolation jobs are the runner's own user: git, among others, checks the owner of its folder.
            if self._owner is not None and self._isolates():
                os.chown(work / part, self._owner, self._owner)

    def copy(self, job: Job) -> Path:
        """Return the path of the workspace's copy: named as locally, because pytest makes a keyword of that name."""
        submitted = job.options.submitted
        name = PurePosixPath(mount_point(submitted.root, submitted.project_folder)).name
        # A colon ends a path in PYTHONPATH, and so on: only harmless names are used unchanged.
        harmless = name if re.fullmatch(r"\w[\w.-]{0,99}", name) else "project"
        return self.of(job.id, "own") / "copy" / harmless

    def make_copy(self, job: Job) -> Path:
        """Make the folder of the workspace's copy, for engines that mount nothing, and return it."""
        copy = self.copy(job)
        self.make(copy.parents[1], "work", "spool", "copy", f"copy/{copy.name}")
        return copy

    def prepared_files(self, job: Job) -> Path:
        """Return the file beside such a copy that lists what the copy has before the job runs."""
        return self.of(job.id, "own") / "prepared.json"
