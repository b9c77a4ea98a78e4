"""What a job's worker is told to run, and how it is told: a sealed file in its spool.

The seal is known to the worker alone, which removes the file before it runs anything: so nothing of the job's own can
speak for it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ci_runner.controller.builds import write_for
from ci_runner.controller.engine import SPOOL, TOOLS
from ci_runner.models import Job
from ci_runner.pipelines import script
from ci_runner.plan import map_arguments
from pytest_remote_ci.wire import SubmitOptions


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


def command(job: Job, options: SubmitOptions, place: Place) -> list[str]:
    """The program and its arguments: pytest, or the job's script."""
    commands = job.options.get("script")
    if commands is not None:
        return [script.SHELL, "-c", script.program(commands)]
    program = (place.python, f"{TOOLS}/boot.py", "module" if place.module else "script")
    color = ("--color=yes",) if options.color else ()
    return [*program, *color, *map_arguments(options.args, options.root, place.mount_point)]


def worker(place: Place) -> tuple[str, ...]:
    """The container's main process."""
    if place.python:
        return (place.python, "-I", "-S", f"{TOOLS}/worker.py", SPOOL)
    return (script.SHELL, f"{TOOLS}/worker.sh", SPOOL)


def write(work: Path, place: Place, description: Mapping[str, Any], owner: int | None) -> None:
    """Tell the worker of the attempt whose folder is `work`, once. `owner`: the job's uid, None when it is ours.

    What we keep of the seal is written last, so that it is never there without the file that has it.
    """
    kept = work / "seal"
    if kept.exists():
        return
    seal = secrets.token_hex(16)
    if place.python:
        told = {"job.json": json.dumps({**description, "seal": seal})}
    else:
        program = script.launcher(
            description["argv"], cwd=description["cwd"], env=description["env"], path=description["path"]
        )
        told = {"command": program, "seal": seal}
    for path, content, whose in (
        *((work / "spool" / name, content, owner) for name, content in told.items()),
        (kept, seal, None),
    ):
        temporary = path.with_name(f"{path.name}.tmp")
        temporary.unlink(missing_ok=True)
        write_for(temporary, content, whose)
        temporary.rename(path)
