"""Byte code for published environments: made once, when the job that built one is over and nobody waits.

Jobs see an environment read-only, so Python would compile every module of it anew in every run. The byte code is made
in a container that sees the environment read-only, too, and runs nothing of it; from there each file is moved beside
its source, where nothing that a container made is followed. Without it everything works, only slower.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ci_runner.controller.builds import Build, Builds, remove_folder
from ci_runner.controller.engine import ENVIRONMENT, STORE, Bind
from ci_runner.errors import EnvironmentFailed

_log = logging.getLogger(__name__)

#: Processors that it takes at most.
_CPUS: Final = 0.5
#: Seconds after which what there is has to do.
_LONGEST: Final = 120.0


@dataclass(frozen=True)
class _Wanted:
    """A published environment without byte code."""

    folder: Path
    #: Where its scope's containers may write.
    store: Path
    image_id: str
    python: str
    tools: Path


class Bytecode:
    """The environments of one data directory that still lack it. Methods may be called from any thread."""

    def __init__(self, builds: Builds, owner: int | None) -> None:
        """`owner`: the uid of jobs, None when it is ours."""
        self._builds = builds
        self._owner = owner
        self._lock = threading.Lock()
        self._wanted: dict[str, _Wanted] = {}

    def want(self, folder: Path, store: Path, *, image_id: str, python: str, tools: Path) -> None:
        """Note an environment that is in use, unless it has its byte code."""
        if not _mark(folder).exists():
            with self._lock:
                self._wanted.setdefault(folder.name, _Wanted(folder, store, image_id, python, tools))

    def make(self, key: str, job_id: str, stopping: Callable[[], bool]) -> None:
        """Make that of the environment `key`, if it is wanted; `job_id` names the job that used it.

        Takes seconds. Failures are logged: it is tried again after the next job. Raises `EngineUnavailable` and
        `PreparationStopped`.
        """
        with self._lock:
            wanted = self._wanted.pop(key, None)  # who else asks meanwhile does not have to wait
        if wanted is None or not wanted.folder.is_dir():
            return
        stage = wanted.store / "new" / uuid.uuid4().hex
        try:
            stage.mkdir(mode=0o755)
            if self._owner is not None:
                os.chown(stage, self._owner, self._owner)
            step = {"do": "bytecode", "source": ENVIRONMENT, "target": STORE, "seconds": _LONGEST}
            build = Build(
                job_id=job_id, attempt=1, image_id=wanted.image_id, python=wanted.python, steps=(step,), store=stage,
                may_build=False, cwd="/", binds=(Bind(wanted.folder, ENVIRONMENT),), cpus=_CPUS,
            )  # fmt: skip
            with self._builds.run(build, wanted.tools, log=_log.debug, stopping=stopping) as built:
                if built.result.get("ok") is not True:
                    raise EnvironmentFailed(f"no byte code was made: {built.result.get('error')}")
            count = move_beside(stage, wanted.folder)
            _mark(wanted.folder).touch()
            _log.info("environment %s: byte code of %d modules", key, count)
        except (EnvironmentFailed, OSError) as error:
            _log.warning("environment %s: %s", key, error)
        finally:
            remove_folder(stage)


def move_beside(made: Path, environment: Path) -> int:
    """Move each byte code file below `made` to the same place below `environment`; how many there were.

    Only plain files and only into folders that are really the environment's own: both sides hold foreign files.
    """
    moved = 0
    for folder in _folders(environment):
        source, target = made / folder / "__pycache__", environment / folder / "__pycache__"
        if not _is_folder(source):
            continue
        with contextlib.suppress(FileExistsError):
            target.mkdir(mode=0o755)
        if not _is_folder(target):
            continue
        for entry in list(os.scandir(source)):
            if entry.name.endswith(".pyc") and stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                Path(entry.path).chmod(0o644)
                Path(entry.path).rename(target / entry.name)
                moved += 1
    return moved


def _folders(environment: Path) -> Iterator[str]:
    """The folders of an environment, relative to it; links are none."""
    for folder, names, _ in os.walk(environment):
        names[:] = [name for name in names if name != "__pycache__"]
        yield os.path.relpath(folder, environment)


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode) and stat.S_ISDIR(path.parent.lstat().st_mode)
    except OSError:
        return False


def _mark(folder: Path) -> Path:
    """Says that the environment has its byte code."""
    return folder / ".bytecode"
