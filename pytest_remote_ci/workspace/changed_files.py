"""Changes in a working tree since a revision, for jobs that run only if certain files changed."""

from __future__ import annotations

from pathlib import Path

from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.workspace import git


def since(project: Path, revision: str) -> list[str]:
    """Return paths below `project`, relative to it, that differ from `revision`.

    Committed, uncommitted, untracked and deleted paths are included. Raises `ConfigError` if git fails.
    """
    if revision.startswith("-"):
        raise ConfigError(f"{revision!r} is not a revision")
    changed = _git(
        project, "diff", "--no-ext-diff", "--name-only", "--no-renames", "-z", "--relative", revision, "--"
    )
    untracked = _git(project, "ls-files", "-z", "--others", "--exclude-standard")
    return sorted({path for path in (changed + untracked).split("\0") if path})


def _git(project: Path, *arguments: str) -> str:
    try:
        output, _ = git.run(project, *arguments)
    except git.GitError as error:
        raise ConfigError(f"git cannot list the changed files: {error}") from error
    return output.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode("utf-8")
