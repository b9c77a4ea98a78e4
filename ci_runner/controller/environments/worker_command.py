"""What a job's worker is to run, and how it learns that: a file in its spool, with the key of its seal.

The key is known to the worker alone, which removes the file before it runs anything, and which other processes of the
container cannot look into: so nothing of the job's own can speak for it. A shell cannot protect its memory; it gets no
key, and its last word counts only when the engine has said how the container ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ci_runner.controller.engine import SPOOL, TOOLS
from ci_runner.controller.environments.builds import write_for
from ci_runner.dependencies.install_plan import map_arguments
from ci_runner.model import seals
from ci_runner.model.job import Job
from ci_runner.pipelines import script


class Place(Protocol):
    """What of a prepared job decides about its command."""

    @property
    def python(self) -> str:
        """The tests' interpreter, as a path in the container; "" in an image that has none."""

    @property
    def mount_point(self) -> str:
        """Where the workspace appears."""

    @property
    def module(self) -> bool:
        """Run as ``python -m pytest``."""


def command(job: Job, place: Place) -> list[str]:
    """The program and its arguments: pytest, or the job's script."""
    options = job.options.submitted
    if job.options.script is not None:
        return [script.SHELL, "-c", script.program(job.options.script)]
    program = (place.python, f"{TOOLS}/boot.py", "module" if place.module else "script")
    color = ("--color=yes",) if options.color else ()
    return [*program, *color, *map_arguments(options.args, options.root, place.mount_point)]


def worker(place: Place) -> tuple[str, ...]:
    """The container's main process."""
    if place.python:
        return (place.python, "-I", "-S", f"{TOOLS}/worker.py", SPOOL)
    return (script.SHELL, f"{TOOLS}/worker.sh", SPOOL)


def write(work: Path, place: Place, description: Mapping[str, Any], owner: int | None) -> None:
    """Write for the worker of the attempt whose folder is `work`, once. `owner`: the job's uid, None when it is ours.

    Our own file, a copy of the key where there is one, is written last: it is never there without the worker's, and
    says that this was done even after the worker removed its own.
    """
    spool, ours = work / "spool", work / ("seal" if place.python else "written")
    if ours.exists():
        return
    if not place.python:
        program = script.launcher(
            description["argv"], cwd=description["cwd"], env=description["env"], path=description["path"]
        )
        _write(spool / "command", program, owner)
        _write(ours, "", None)
        return
    key = seals.new_key()
    _write(spool / "job.json", json.dumps({**description, "seal": key}), owner)
    _write(ours, key, None)


def _write(path: Path, content: str, owner: int | None) -> None:
    """Write a file as a whole."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    write_for(temporary, content, owner)
    temporary.rename(path)
