"""Which of the files that a job made the project's ignore rules leave out, as they do when files are sent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from pytest_remote_ci.workspace import git
from pytest_remote_ci.workspace.gitignore import PatternList
from pytest_remote_ci.workspace.project import git_toplevel
from pytest_remote_ci.workspace.selection import (
    ROOT_OUTPUT_FOLDERS,
    decided_by_ignore_files,
    is_ignored_by_git,
)


def ignored(root: Path, paths: Collection[str], exclude: Sequence[str] = ()) -> frozenset[str]:
    """Return those of `paths` (files below `root`, which need not exist) that would not be sent."""
    excluded = PatternList.of(exclude)
    found = {path for path in paths if excluded.covers(path)}
    if git_toplevel(root) is not None:
        try:
            if not is_ignored_by_git(root):
                return frozenset(found.union(_by_git(root, paths)))
        except git.GitError:
            pass
    found.update(path for path in paths if path.split("/")[0] in ROOT_OUTPUT_FOLDERS and "/" in path)
    found.update(path for path in paths if decided_by_ignore_files(root, path))
    return frozenset(found)


def _by_git(root: Path, paths: Collection[str]) -> list[str]:
    if not paths:
        return []
    given = b"".join(path.encode("utf-8", "surrogateescape") + b"\0" for path in paths)
    output, _ = git.run(root, "check-ignore", "-z", "--stdin", accepted=(0, 1), given=given)
    return [item.decode("utf-8", "surrogateescape") for item in output.split(b"\0") if item]
