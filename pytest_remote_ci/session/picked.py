"""pytest-picked's options, obeyed here: a job has no git repository that knows which test files changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatch

import pytest

from pytest_remote_ci.errors import NothingSelected
from pytest_remote_ci.session import argv
from pytest_remote_ci.session.arguments import Place
from pytest_remote_ci.session.argv import TakesValue
from pytest_remote_ci.workspace import changed_files

#: Options of pytest-picked → the values that may follow as an argument of their own; None is any.
_VALUES: dict[str, tuple[str, ...] | None] = {
    "--picked": ("only", "first"),
    "--mode": ("unstaged", "branch"),
    "--parent-branch": None,
}


def replaced(
    args: Sequence[str], config: pytest.Config, place: Place, takes_value: TakesValue
) -> tuple[list[str], list[str]]:
    """Return `args` with ``--picked`` replaced by the changed test files, and these files.

    Without that option nothing is replaced. Raises `NothingSelected` if no test file has changed, `ConfigError` if git
    fails.
    """
    kept: list[str] = []
    found: dict[str, str] = {}
    for word in argv.words(args, takes_value):
        before = next(reversed(found), "") if kept[-1:] == [""] else ""
        if word.option in _VALUES:
            found.pop(word.option, None)
            found[word.option] = word.value or ""
            kept.append("")  # its value may follow
        elif before and word.is_path and not found[before] and word.text in (_VALUES[before] or (word.text,)):
            found[before] = word.text
        else:
            kept += word.texts
    if "--picked" not in found:
        return list(args), []
    revision = (found.get("--parent-branch") or "master") if found.get("--mode") == "branch" else "HEAD"
    patterns = config.getini("python_files")
    changed = [
        path
        for path in changed_files.since(place.root, revision)
        if (place.root / path).is_file() and any(fnmatch(path.rpartition("/")[2], name) for name in patterns)
    ]
    if found["--picked"] == "first":
        rest = list(config.getini("testpaths")) or ["."]
    elif changed:
        rest = []
    else:
        raise NothingSelected(f"--picked: no test file differs from {revision}; nothing was sent")
    folder = place.cwd if place.is_inside else place.root
    paths = [os.path.relpath(place.root / path, folder).replace(os.sep, "/") for path in changed]
    words = [word for word in kept if word]
    end = words.index("--") if "--" in words else len(words)
    return [*words[:end], *paths, *rest, *words[end:]], paths
