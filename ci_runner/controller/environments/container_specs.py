"""`ContainerSpecs`: from a prepared job to the spec of its container, with what the worker in it has to know."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ci_runner.controller.artifacts import changes
from ci_runner.controller.engine import HOME, KEPT, SPOOL, Bind, ContainerSpec, Overlay
from ci_runner.controller.environments import worker_command
from ci_runner.controller.environments.builds import write_for
from ci_runner.controller.environments.credentials import is_credential
from ci_runner.controller.environments.job_folders import JobFolders
from ci_runner.controller.environments.keep import Given
from ci_runner.controller.environments.workspaces import Workspaces
from ci_runner.controller.job_limits import limits_of
from ci_runner.model.job import Job
from ci_runner.settings.groups import ReconcileSettings
from ci_runner.storage.safe_fs import Trash
from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.protocol import SubmitOptions
from pytest_remote_ci.wire.timing import Timing

#: Variables with the number of processors: of pytest-xdist (`-n auto`), Python 3.13 (`os.process_cpu_count`), OpenMP.
_PROCESSORS: Final = ("PYTEST_XDIST_AUTO_NUM_WORKERS", "PYTHON_CPU_COUNT", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Prepared:
    """Everything that all attempts of a job share."""

    #: Content digest of the image.
    image: str
    #: Path of the project in the container.
    mount_point: str
    #: Read-only trees, topmost first: the project build's output, then the workspace.
    lowers: tuple[Path, ...]
    binds: tuple[Bind, ...]
    #: The tests' interpreter, as a path in the container; "" in an image without Python, where only scripts run.
    python: str
    env: Mapping[str, str]
    #: First folders on the command's PATH.
    path: tuple[str, ...]
    #: Names the environment, the layer and the image with packages, like `Job.environment`: not to be evicted while
    #: the job is open.
    key: str
    #: Run as ``python -m pytest``.
    module: bool
    #: If the engine cannot mount: the folder in which the job runs.
    upper: Path | None = None
    #: Path of the workspace in the container, if the project is a folder in it.
    workspace: str | None = None
    #: The container that shares its network with the job: that of its first service.
    join: str | None = None
    #: The files that earlier jobs left for this one.
    kept: Given | None = None
    #: Device and inode of mounted folders that a build made.
    known: Mapping[Path, tuple[int, int]] = field(default_factory=dict)
    #: Seconds of the phases of the preparation, and what was not there yet.
    timing: Timing = field(default_factory=Timing)


class ContainerSpecs:
    """The specs of jobs' containers; see the module. Thread-safe."""

    def __init__(
        self,
        settings: ReconcileSettings,
        workspaces: Workspaces,
        folders: JobFolders,
        trash: Trash,
        owner: int | None,
        isolates: Callable[[], bool],
    ) -> None:
        """`owner`: the uid of jobs, None if the runner's own; `isolates`: whether the engine has mounts."""
        self._settings = settings
        self._workspaces = workspaces
        self._folders = folders
        self._trash = trash
        self._owner = owner
        self._isolates = isolates

    def create(self, job: Job, prepared: Prepared, attempt: int) -> ContainerSpec:
        """Return the container to create; make the attempt's folders, its seal and `job.json`, once."""
        work = self._folders.of(job.id, attempt)
        if worker_command.is_ahead(work):  # a controller ended while it handed a waiting container over
            self._trash.remove(work)
        self._folders.make(work)
        worker_command.write(work, prepared, self.description(job, prepared, work), self._owner)
        if prepared.upper is not None:
            self._note_prepared_files(job)
        return self.spec(job, prepared, attempt)

    def description(self, job: Job, prepared: Prepared, work: Path) -> worker_command.Description:
        """Return what the worker has to know; write a file of modification times, if the client sent them."""
        options = job.options.usable()
        settings = self._settings
        cwd = "/".join(filter(None, (prepared.mount_point, options.cwd)))
        limits = limits_of(options, settings)
        own = {
            "REMOTE_CI_COLUMNS": str(options.columns),
            **({"REMOTE_CI_RECORDS": SPOOL} if options.records else {}),
            **self._ages(job, options, work),
            **{name: value for name, value in prepared.env.items() if name.startswith("REMOTE_CI_")},
        }
        processors = str(max(1, round(limits.cpus)))
        env = {
            # Else programs start a worker or a thread for every processor of the host.
            **dict.fromkeys(_PROCESSORS, processors),
            **prepared.env,
            **_env_of_command(job),
            **own,
        }
        return {
            "protocol": 1,
            "argv": worker_command.command(job, prepared),
            "cwd": cwd,
            "env": env,
            "path": list(prepared.path),
            "grace": settings.grace,
            "recorded": options.records and job.options.script is None,
            "restarts": options.restarts,
            "git": options.git,
            "kept": [(name, f"{KEPT}/{name}") for name in (prepared.kept.links if prepared.kept else ())],
            "memory": formats.size(limits.memory),
            "file_size": formats.size(limits.file_size),
            "shm_size": formats.size(limits.shm_size) if self._isolates() else "",
        }

    def spec(self, job: Job, prepared: Prepared, attempt: int) -> ContainerSpec:
        """Return the spec of an attempt's container."""
        options = job.options.usable()
        settings = self._settings
        work = self._folders.of(job.id, attempt)
        return ContainerSpec(
            name=f"{settings.prefix}{job.id}-{attempt}",
            image_id=prepared.image,
            argv=worker_command.worker(prepared),
            role="test",
            job_id=job.id,
            attempt=attempt,
            env={"HOME": HOME},
            binds=(*prepared.binds, Bind(work / "spool", SPOOL, read_only=False)),
            overlay=Overlay(
                prepared.lowers,
                prepared.upper or work / "upper",
                work / "work",
                prepared.workspace or prepared.mount_point,
            ),
            kept=self._kept_home(prepared, work),
            limits=limits_of(options, settings),
            network="none" if "none" in (options.network, settings.network) else "egress",
            join=prepared.join,
            known=prepared.known,
        )

    def _ages(self, job: Job, options: SubmitOptions, work: Path) -> dict[str, str]:
        """Write the modification times for `pytest_remote_ci.job.mtimes`, if the client sent them.

        Return the environment variable with the file's path, or {}.
        """
        digest = job.options.mtimes
        if digest is None:
            return {}
        cwd = posixpath.join(options.project_folder, options.cwd)
        found = {"cwd": cwd.rstrip("/"), "times": self._workspaces.times(digest)}
        path = work / "spool" / "ages.json"
        if not os.path.lexists(path):  # otherwise written before a crash: the container may already have it
            temporary = path.with_name("ages.json.tmp")
            temporary.unlink(missing_ok=True)
            write_for(temporary, json.dumps(found), self._owner)
            temporary.rename(path)
        return {"REMOTE_CI_AGES": f"{SPOOL}/ages.json"}

    def _kept_home(self, prepared: Prepared, work: Path) -> Overlay | None:
        if prepared.kept is None or not prepared.kept.links:
            return None
        self._folders.make(work, "kept-upper", "kept-work")
        return Overlay((prepared.kept.home,), work / "kept-upper", work / "kept-work", KEPT)

    def _note_prepared_files(self, job: Job) -> None:
        """Write which files the job's own folder has before it runs, besides the submitted ones; once."""
        place = self._folders.prepared_files(job)
        if job.workspace is None or not job.options.wants_changes or place.exists():
            return
        found = changes.prepared_files(self._folders.copy(job), self._workspaces.rows(job.workspace))
        temporary = place.with_suffix(".tmp")
        temporary.write_text(json.dumps(found))
        temporary.rename(place)


def _env_of_command(job: Job) -> dict[str, str]:
    """Return the developer's variables for the command: only scripts get credentials of builds."""
    is_for_builds = (
        set() if job.options.script is not None else set(filter(is_credential, job.options.secrets))
    )
    env = job.options.usable().env
    return {name: value for name, value in env.items() if name not in is_for_builds}
