"""Byte code for published environments: compiled once, after the job that built one has ended.

Jobs see an environment read-only, so Python would otherwise compile every module of it again in each job. The byte
code is made in a container that also sees the environment read-only, into a separate cell. From there each file is
moved next to its source (`takeover`). So is what pytest makes of its plugins when it rewrites their assertions: that
container runs the environment's pytest, as each job with that environment does, and nothing else of it. So it has no
network, and its time and bytes are limited from outside. Without byte code everything works, only slower.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci_runner.controller.engine import ENVIRONMENT, STORE, Bind
from ci_runner.controller.environments.builds import Build, Builds
from ci_runner.controller.environments.takeover import move_byte_code
from ci_runner.errors import EnvironmentFailed
from ci_runner.storage.safe_fs import opened_folder

if TYPE_CHECKING:
    from pytest_remote_ci.job.builder import Step

_log = logging.getLogger(__name__)

#: Maximum processors.
_CPUS: Final = 0.5
#: Seconds, after which the byte code made so far is used.
_LONGEST: Final = 120.0
#: Further seconds until the container is ended from outside: code of the environment runs in it.
_GRACE: Final = 30.0
#: Maximum bytes of byte code.
_MOST_BYTES: Final = 1 << 30


@dataclass(frozen=True)
class _Wanted:
    """A published environment without byte code."""

    folder: Path
    #: User id of its scope's builds; None: the runner's.
    owner: int | None
    image_id: str
    python: str
    tools: Path


class Bytecode:
    """The environments of one data directory without byte code. Thread-safe."""

    def __init__(self, builds: Builds) -> None:
        self._builds = builds
        self._lock = threading.Lock()
        self._wanted: dict[str, _Wanted] = {}

    def want(self, folder: Path, owner: int | None, *, image_id: str, python: str, tools: Path) -> None:
        """Remember an environment that is in use, unless it has byte code."""
        if not _mark(folder).exists():
            with self._lock:
                self._wanted.setdefault(folder.name, _Wanted(folder, owner, image_id, python, tools))

    def make(self, key: str, job_id: str, stopping: Callable[[], bool]) -> None:
        """Compile the environment `key` if it was remembered; `job_id` names the job that used it.

        Takes seconds. Failures are logged, and the next job's end tries again. Raises `EngineUnavailable` and
        `PreparationStopped`.
        """
        with self._lock:
            wanted = self._wanted.pop(key, None)  # other callers need not wait meanwhile
        if wanted is None or not wanted.folder.is_dir():
            return
        step: Step = {"do": "bytecode", "source": ENVIRONMENT, "target": STORE, "seconds": _LONGEST}
        build = Build(
            job_id=job_id,
            attempt=1,
            image_id=wanted.image_id,
            python=wanted.python,
            steps=(step,),
            cache=None,
            may_build=False,
            cwd="/",
            owner=wanted.owner,
            binds=(Bind(wanted.folder, ENVIRONMENT),),
            cpus=_CPUS,
            network="none",
            longest=_LONGEST + _GRACE,
            most_bytes=_MOST_BYTES,
        )
        try:
            with self._builds.run(build, wanted.tools, log=_log.debug, stopping=stopping) as built:
                if built.result.get("ok") is not True:
                    raise EnvironmentFailed(f"no bytecode was compiled: {built.result.get('error')}")
                with built.cell.opened("store") as made, opened_folder(wanted.folder) as environment:
                    count = move_byte_code(made, environment, wanted.owner)
            _mark(wanted.folder).touch()
            _log.info("environment %s: byte code of %d modules", key, count)
        except (EnvironmentFailed, OSError) as error:
            _log.warning("environment %s: %s", key, error)


def _mark(folder: Path) -> Path:
    """Return the mark that the environment has byte code; next to it, because a build made its content."""
    return folder.with_name(f"{folder.name}.bytecode")
