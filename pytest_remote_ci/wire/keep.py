"""Patterns for what a job leaves to the next job of its project: databases and caches of tools.

A pattern is one of `globs`, relative to the project; a name without a slash also counts in each folder between the
project and the one in which pytest runs, because tools put their data into either. `~/.cache/x` is a folder in the
job's home, named without wildcards. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pytest_remote_ci.wire import globs

#: Kept unless the project says otherwise: the databases of hypothesis, pytest-benchmark and testmon.
DEFAULT: Final = (".hypothesis", ".benchmarks", ".testmondata*")
#: Most patterns of one job.
MAX_PATTERNS: Final = 50

_HOME: Final = "~/"


def problem(pattern: str) -> str | None:
    """Return why `pattern` is invalid, as words that can follow it; None if it is valid."""
    names = [name for name in in_home(pattern).split("/") if name not in ("", ".")]
    if pattern.startswith("~") and not is_in_home(pattern):
        return "is another user's home: write ~/FOLDER"
    found = globs.problem(in_home(pattern))
    if found is not None:
        return found
    if is_in_home(pattern) and re.search(r"[*?\[]", pattern):
        return "has wildcards: a folder in the home is named in full"
    if all(set(name) <= {"*"} for name in names):
        return "names everything: list the folders to keep"
    return None


def is_in_home(pattern: str) -> bool:
    """Return whether the pattern names a folder in the home."""
    return pattern.startswith(_HOME)


def in_home(pattern: str) -> str:
    """Return the pattern without the mark of the home, parts joined by single slashes."""
    if not is_in_home(pattern):
        return pattern
    return "/".join(name for name in pattern[len(_HOME) :].split("/") if name not in ("", "."))


def below(pattern: str, cwd: str) -> tuple[str, ...]:
    """Return the globs below the project (or the home) that a pattern stands for; pytest runs in `cwd`."""
    if is_in_home(pattern) or "/" in pattern:
        return (in_home(pattern),)
    folders = [re.sub(r"([*?\[])", r"[\1]", name) for name in cwd.split("/") if name]
    return tuple("/".join([*folders[:depth], pattern]) for depth in range(len(folders) + 1))


def all_below_project(patterns: Iterable[str], cwd: str) -> tuple[str, ...]:
    """Return the globs below the project of all patterns but those in the home; pytest runs in `cwd`."""
    return tuple(glob for pattern in patterns if not is_in_home(pattern) for glob in below(pattern, cwd))
