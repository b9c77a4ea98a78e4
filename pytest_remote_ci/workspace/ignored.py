"""Which of the files that a job made the project's ignore rules leave out, as they do when files are sent."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from pytest_remote_ci.workspace import git
from pytest_remote_ci.workspace.gitignore import PatternList
from pytest_remote_ci.workspace.project import git_toplevel
from pytest_remote_ci.workspace.selection import ROOT_OUTPUT_FOLDERS, decided_by_ignore_files

#: Paths in one call of git.
_AT_ONCE: Final = 500


def ignored(root: Path, paths: Collection[str], exclude: Sequence[str] = ()) -> frozenset[str]:
    """Return those of `paths` (files below `root`, which need not exist) that would not be sent."""
    excluded = PatternList.of(exclude)
    found = {path for path in paths if excluded.covers(path)}
    if git_toplevel(root) is not None:
        try:
            return frozenset(found.union(*(_by_git(root, part) for part in _parts(paths))))
        except git.GitError:
            pass
    found.update(path for path in paths if path.split("/")[0] in ROOT_OUTPUT_FOLDERS and "/" in path)
    found.update(path for path in paths if decided_by_ignore_files(root, path))
    return frozenset(found)


def _parts(paths: Collection[str]) -> Iterator[list[str]]:
    rest = iter(paths)
    while part := list(islice(rest, _AT_ONCE)):
        yield part


def _by_git(root: Path, paths: list[str]) -> list[str]:
    output, _ = git.run(root, "check-ignore", "-z", "--", *paths, accepted=(0, 1))
    return [item.decode("utf-8", "surrogateescape") for item in output.split(b"\0") if item]
