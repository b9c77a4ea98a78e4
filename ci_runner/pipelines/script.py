"""A job's script as one program of a POSIX shell: each command is shown, then run; the first that fails ends it.

All commands share one shell, so that `cd` and `export` hold for those behind them, and each is parsed by itself, so
that an unclosed quote spoils no other.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

SHELL = "/bin/sh"


def program(commands: Iterable[str]) -> str:
    """The text of the program; its exit code is that of the command that failed, or 0."""
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


def launcher(argv: Iterable[str], *, cwd: str, env: Mapping[str, str], path: Iterable[str]) -> str:
    """A shell program that becomes `argv`, for where no Python reads a `job.json`."""
    lines = ["exec 3<&-"]  # by which `worker.sh` hands the program over
    lines += [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
    folders = ":".join(path)
    if folders:
        lines.append(f'export PATH={shlex.quote(folders)}:"$PATH"')
    words = " ".join(shlex.quote(word) for word in argv)
    return "\n".join([*lines, f"cd {shlex.quote(cwd)} || exit 126", f"exec {words}", ""])
