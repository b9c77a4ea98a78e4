"""Last check of mount sources: engines resolve paths themselves, and follow every link in them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ci_runner.controller.engine import ContainerSpec
from ci_runner.errors import PermanentError


def check(spec: ContainerSpec) -> None:
    """Raise `PermanentError` for the first source that is not the prepared one; keep the host's paths from users."""
    for source, target in spec.sources():
        words = _problem(source, spec)
        if words is not None:
            raise PermanentError(f"the source of mount {target} {words}")


def _problem(source: Path, spec: ContainerSpec) -> str | None:
    try:
        found = source.lstat()
        real = os.path.realpath(source)
    except OSError:
        return "does not exist on the runner"
    if real != os.fspath(source):
        return "is reached through a link on the runner"
    if not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):
        return "is neither a folder nor a file on the runner"
    if spec.known.get(source, (found.st_dev, found.st_ino)) != (found.st_dev, found.st_ino):
        return "was replaced on the runner after it was prepared"
    return None
