"""The only module that runs git.

Each call has a time limit, no terminal, no prompts, no optional locks and English messages. Variables by which
a git hook (pre-commit, pre-push) binds git to its own repository are removed. Programs that a repository's
configuration would start along with git (a file system monitor) are disabled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Final

#: Time limit of a call in seconds. git needs far less even for huge trees.
_TIMEOUT: Final = 120.0
#: Variables that bind git to one repository, or change how it reads paths.
_REPOSITORY_VARIABLES: Final = frozenset(
    f"GIT_{name}"
    for name in (
        *("DIR", "WORK_TREE", "INDEX_FILE", "PREFIX", "COMMON_DIR", "OBJECT_DIRECTORY", "NAMESPACE"),
        *("ALTERNATE_OBJECT_DIRECTORIES", "LITERAL_PATHSPECS", "GLOB_PATHSPECS", "NOGLOB_PATHSPECS"),
    )
)
#: Overrides the repository's configuration, which may be from an untrusted source.
_SAFE_CONFIGURATION: Final = ("-c", "core.fsmonitor=false")


class GitError(Exception):
    """git is not installed, took too long, or failed. The message is one line with the cause."""


def run(
    folder: Path, *arguments: str, accepted: tuple[int, ...] = (0,), given: bytes | None = None
) -> tuple[bytes, str]:
    """Run git in `folder`; return its output and its warnings. Raises `GitError` for other exit codes.

    `given`: its standard input.
    """
    try:
        code, output, errors = _run([*_SAFE_CONFIGURATION, *arguments], folder, given)
    except subprocess.TimeoutExpired as error:
        raise GitError(f"git {arguments[0]} took longer than {_TIMEOUT:g} s") from error
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError) and folder.is_dir()
        raise GitError("git is not installed" if is_missing else str(error)) from error
    complaint = os.fsdecode(errors).strip()
    if code not in accepted:
        raise GitError(_reason(complaint) or f"git ended with {code}")
    return output, complaint


def _run(arguments: list[str], folder: Path, given: bytes | None) -> tuple[int, bytes, bytes]:
    """Run git in a session without a terminal, so that it can be ended together with its child processes."""
    with subprocess.Popen(
        ["git", *arguments],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(given, timeout=_TIMEOUT)
        except BaseException:  # including Ctrl-C
            _kill(process)
            raise
        return process.returncode, output, errors


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill git and the processes it has started (filters, hooks), which would outlive it."""
    if not hasattr(os, "killpg"):
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def environment() -> dict[str, str]:
    """Return this process's environment without variables of other repositories, set up for git without prompts."""
    variables = {name: value for name, value in os.environ.items() if name not in _REPOSITORY_VARIABLES}
    return {
        **variables,
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_PAGER": "cat",
        "LC_ALL": "C",
    }


def _reason(complaint: str) -> str:
    """Return the line of an error that gives the reason. Warnings may precede it, and advice may follow."""
    lines = complaint.splitlines()
    return next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[0] if lines else "")
