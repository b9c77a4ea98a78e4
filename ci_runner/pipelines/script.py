"""Turn a job's script into one POSIX shell program: each command is shown, then run; the first failure ends it.

All commands share one shell, so that `cd` and `export` apply to the following ones. Each is parsed separately, so
that an unclosed quote does not affect others.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

SHELL = "/bin/sh"


def program(commands: Iterable[str]) -> str:
    """Return the program; its exit code is that of the failed command, or 0."""
    lines = ["set -e"]
    for command in commands:
        lines.append(f"printf '%s\\n' {shlex.quote(_shown(command))}")
        lines.append(f"eval {shlex.quote(command)}")
    if len(lines) == 1:
        lines.append("echo 'Empty script'")
    return "\n".join(lines) + "\n"


def _shown(command: str) -> str:
    return "\n".join(
        f"{'$' if not index else '>'} {line}" for index, line in enumerate(command.strip().splitlines())
    )


def launcher(
    argv: Iterable[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    path: Iterable[str],
    kept: Iterable[tuple[str, str]] = (),
) -> str:
    """Return a shell program that executes `argv`, for images without a Python to read `job.json`.

    `kept`: names in the home, and the folders to which they become links.
    """
    lines = ["exec 3<&-"]  # the descriptor on which `worker.sh` passes the program
    for name, target in kept:
        folder, link = shlex.quote(target), shlex.quote(name)
        lines.append(
            f'{{ mkdir -p {folder} "$HOME"/{link} && rmdir "$HOME"/{link} && ln -s {folder} "$HOME"/{link}; }} 2>&-'
        )
    lines += [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
    folders = ":".join(path)
    if folders:
        lines.append(f'export PATH={shlex.quote(folders)}:"$PATH"')
    words = " ".join(shlex.quote(word) for word in argv)
    return "\n".join([*lines, f"cd {shlex.quote(cwd)} || exit 126", f"exec {words}", ""])
