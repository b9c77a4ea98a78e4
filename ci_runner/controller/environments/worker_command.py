"""A job's command and its delivery to the worker: a file in the job's spool, with the key of its seal.

In the container, only the worker knows the key: it removes the file before it runs anything, and other processes
cannot read its memory. So none of the job's code can forge its frames. A shell cannot protect its memory, so it gets
no key, and its exit frame counts only once the engine reports how the container ended.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from ci_runner.controller.engine import SPOOL, TOOLS
from ci_runner.controller.environments.builds import write_for
from ci_runner.dependencies.install_plan import map_arguments
from ci_runner.model import seals
from ci_runner.model.job import Job
from ci_runner.pipelines import script

if TYPE_CHECKING:
    from typing import TypeAlias

    from pytest_remote_ci.job.worker import Job as WorkerJob

    #: What the worker has to know: the content of its file `job.json`.
    Description: TypeAlias = WorkerJob

#: Marks the folder of an attempt that was made for a container started before its job.
_AHEAD: Final = "ahead"


class Place(Protocol):
    """The part of a prepared job that determines its command."""

    @property
    def python(self) -> str:
        """Return the tests' interpreter, as a path in the container; "" in an image without Python."""

    @property
    def mount_point(self) -> str:
        """Return the path of the workspace in the container."""

    @property
    def module(self) -> bool:
        """Return whether to run ``python -m pytest``."""


def command(job: Job, place: Place) -> list[str]:
    """Return the program and its arguments: pytest, or the job's script."""
    options = job.options.submitted
    if job.options.script is not None:
        return [script.SHELL, "-c", script.program(job.options.script)]
    python = (place.python, *options.interpreter_options)
    program = (*python, f"{TOOLS}/boot.py", "module" if place.module else "script")
    color = ("--color=yes",) if options.color else ()
    return [*program, *color, *map_arguments(options.args, options.root, place.mount_point)]


def worker(place: Place) -> tuple[str, ...]:
    """Return the container's main process."""
    if place.python:
        return (place.python, "-I", "-S", f"{TOOLS}/worker.py", SPOOL)
    return (script.SHELL, f"{TOOLS}/worker.sh", SPOOL)


def write(work: Path, place: Place, description: Description, owner: int | None) -> None:
    """Write the worker's file into the attempt's folder `work`, once. `owner`: the job's uid, None if the runner's.

    The runner's own file, with a copy of the key if there is one, is written last: it exists only if the worker's was
    written, even after the worker has removed that.
    """
    spool, ours = work / "spool", work / ("seal" if place.python else "written")
    if ours.exists():
        return
    if not place.python:
        program = script.launcher(
            description["argv"],
            cwd=description["cwd"],
            env=description["env"],
            path=description["path"],
            kept=description.get("kept", ()),
        )
        _write(spool / "command", program, owner)
        _write(ours, "", None)
        return
    key = seals.new_key()
    _write(spool / "job.json", json.dumps({**description, "seal": key}), owner)
    _write(ours, key, None)


def write_ahead(work: Path, template: Description, owner: int | None) -> None:
    """Write the worker's first file for a container that is started before its job (see `pytest_remote_ci.job.ahead`).

    `template` describes an earlier job. The key goes with it, because nothing else runs in the container yet.
    """
    _write(work / _AHEAD, "", None)
    key = seals.new_key()
    _write(work / "spool" / "job.json", json.dumps({**template, "waits": True, "seal": key}), owner)
    _write(work / "seal", key, None)


def is_ahead(work: Path) -> bool:
    """Return whether an attempt's folder was made for a container that was started before its job."""
    return (work / _AHEAD).exists()


def deliver(work: Path, description: Description, owner: int | None) -> None:
    """Write the job's own file for such a container, which is frozen: nothing in it can read or replace the file."""
    _write(work / "spool" / "job.json", json.dumps(description), owner)
    _write(work / "delivered", "", None)


def _write(path: Path, content: str, owner: int | None) -> None:
    """Write a file atomically."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    write_for(temporary, content, owner)
    temporary.rename(path)
