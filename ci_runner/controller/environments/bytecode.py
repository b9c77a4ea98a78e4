"""Byte code for published environments: made once, when the job that built one is over and nobody waits.

Jobs see an environment read-only, so Python would compile every module of it anew in every run. The byte code is made
in a container that sees the environment read-only, too, and runs nothing of it, into a cell of its own; from there each
file is moved beside its source (`takeover`). Without it everything works, only slower.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ci_runner.controller.engine import ENVIRONMENT, STORE, Bind
from ci_runner.controller.environments.builds import Build, Builds
from ci_runner.controller.environments.takeover import move_byte_code
from ci_runner.errors import EnvironmentFailed
from ci_runner.storage.safe_fs import opened_folder

_log = logging.getLogger(__name__)

#: Processors that it takes at most.
_CPUS: Final = 0.5
#: Seconds after which what there is has to do.
_LONGEST: Final = 120.0


@dataclass(frozen=True)
class _Wanted:
    """A published environment without byte code."""

    folder: Path
    #: The uid of its scope's builds, None when it is ours.
    owner: int | None
    image_id: str
    python: str
    tools: Path


class Bytecode:
    """The environments of one data directory that still lack it. Methods may be called from any thread."""

    def __init__(self, builds: Builds) -> None:
        self._builds = builds
        self._lock = threading.Lock()
        self._wanted: dict[str, _Wanted] = {}

    def want(self, folder: Path, owner: int | None, *, image_id: str, python: str, tools: Path) -> None:
        """Note an environment that is in use, unless it has its byte code."""
        if not _mark(folder).exists():
            with self._lock:
                self._wanted.setdefault(folder.name, _Wanted(folder, owner, image_id, python, tools))

    def make(self, key: str, job_id: str, stopping: Callable[[], bool]) -> None:
        """Make that of the environment `key`, if it is wanted; `job_id` names the job that used it.

        Takes seconds. Failures are logged: it is tried again after the next job. Raises `EngineUnavailable` and
        `PreparationStopped`.
        """
        with self._lock:
            wanted = self._wanted.pop(key, None)  # who else asks meanwhile does not have to wait
        if wanted is None or not wanted.folder.is_dir():
            return
        step = {"do": "bytecode", "source": ENVIRONMENT, "target": STORE, "seconds": _LONGEST}
        build = Build(
            job_id=job_id, attempt=1, image_id=wanted.image_id, python=wanted.python, steps=(step,), cache=None,
            may_build=False, cwd="/", owner=wanted.owner, binds=(Bind(wanted.folder, ENVIRONMENT),), cpus=_CPUS,
        )  # fmt: skip
        try:
            with self._builds.run(build, wanted.tools, log=_log.debug, stopping=stopping) as built:
                if built.result.get("ok") is not True:
                    raise EnvironmentFailed(f"no byte code was made: {built.result.get('error')}")
                with built.cell.opened("store") as made, opened_folder(wanted.folder) as environment:
                    count = move_byte_code(made, environment, wanted.owner)
            _mark(wanted.folder).touch()
            _log.info("environment %s: byte code of %d modules", key, count)
        except (EnvironmentFailed, OSError) as error:
            _log.warning("environment %s: %s", key, error)


def _mark(folder: Path) -> Path:
    """Says that the environment has its byte code; beside it, because a build made what is in it."""
    return folder.with_name(f"{folder.name}.bytecode")
