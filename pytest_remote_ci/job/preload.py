"""Modules that a process imports ahead of its job, because earlier jobs of the project imported them.

Only packages whose import takes long and has no effect but that: nobody notices when they are imported. Never a
module of the project, and none that pytest rewrites. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Packages that take 50 ms and more.
PACKAGES = frozenset(
    {"numpy", "pandas", "polars", "pyarrow", "scipy", "shapely", "skimage", "sklearn", "sympy"}
)
#: The file in the spool with the names of the modules that a job imported.
FILE = "imports"
#: Most modules, and the longest name.
MOST = 4000
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_LONGEST = 200


def is_wanted(name: str) -> bool:
    """Return whether a module may be imported ahead, by its name."""
    package = name.partition(".")[0]
    return package in PACKAGES and len(name) <= _LONGEST and _NAME.fullmatch(name) is not None


def imported(folder: str) -> list[str]:
    """Return the names of the modules of such packages that this process has imported.

    `folder`: the project's. A package that lies in it is the project's own.
    """
    ours = {package for package in PACKAGES if _is_below(package, folder)}
    names = [name for name in list(sys.modules) if is_wanted(name) and name.partition(".")[0] not in ours]
    return names[:MOST]


def _is_below(package: str, folder: str) -> bool:
    path = getattr(sys.modules.get(package), "__file__", None)
    if not isinstance(path, str):
        return False
    top = os.path.realpath(folder)
    return os.path.commonpath([top, os.path.realpath(path)]) == top


def note(spool: str) -> None:
    """Write the file into the spool, for the next job of this project."""
    names = imported(os.getcwd())
    if not names:
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(OSError), open(os.open(os.path.join(spool, FILE), flags, 0o644), "w") as file:
        file.write("\n".join(names))


def load(names: Iterable[str]) -> None:
    """Import these modules; leave out what cannot be imported (any more)."""
    import importlib

    for name in names:
        if is_wanted(name):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
