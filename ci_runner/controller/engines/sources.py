"""Last check of mount sources: engines resolve paths themselves, and follow every link in them."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from ci_runner.controller.engine import ContainerSpec, ImageBuild
from ci_runner.errors import PermanentError


def check(spec: ContainerSpec | ImageBuild) -> None:
    """Raise `PermanentError` for the first source that is not the prepared one; keep the host's paths from users."""
    known = spec.known if isinstance(spec, ContainerSpec) else {}
    for source, target in spec.sources():
        words = _problem(source, known)
        if words is not None:
            raise PermanentError(f"the source of mount {target} {words}")


def _problem(source: Path, known: Mapping[Path, tuple[int, int]]) -> str | None:
    try:
        found = source.lstat()
        real = os.path.realpath(source)
    except OSError:
        return "does not exist on the runner"
    if real != os.fspath(source):
        return "is reached through a link on the runner"
    if not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):
        return "is neither a folder nor a file on the runner"
    if known.get(source, (found.st_dev, found.st_ino)) != (found.st_dev, found.st_ino):
        return "was replaced on the runner after it was prepared"
    return None
