"""What changed in a working tree since a revision, for jobs that take part only when something of theirs did."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.selection import git_environment

_GIT_TIMEOUT: Final = 60.0


def since(project: Path, revision: str) -> list[str]:
    """Paths below `project`, relative to it, that differ from `revision`: committed, uncommitted or untracked.

    Deleted paths are among them. Raises `ConfigError` where git cannot say.
    """
    if revision.startswith("-"):
        raise ConfigError(f"{revision!r} is no revision")
    changed = _git(project, "diff", "--name-only", "--no-renames", "-z", "--relative", revision, "--")
    untracked = _git(project, "ls-files", "-z", "--others", "--exclude-standard")
    return sorted({path for path in (changed + untracked).split("\0") if path})


def _git(project: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=project,
            env=git_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"git cannot say what changed: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1]
        raise ConfigError(f"git cannot say what changed: {last}")
    return done.stdout.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode("utf-8")
