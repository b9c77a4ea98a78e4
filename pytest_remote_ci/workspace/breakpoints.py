"""Refusal of debuggers before anything is sent, because they need a terminal and a job has none.

Options are checked on the command line (`pytest_remote_ci.session.arguments`). Calls are searched for in the selected
test files, first in the raw bytes; the result is cached with the file's digest
(`pytest_remote_ci.workspace.stat_cache`). A call that is reached in the job nevertheless fails its test
(`pytest_remote_ci.job.debuggers`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_remote_ci.errors import WorkspaceError

if TYPE_CHECKING:
    from pytest_remote_ci.workspace.collect import WorkspaceFile

#: The variable that configures `breakpoint()`. A user who sets it is aware of such calls.
VARIABLE = "PYTHONBREAKPOINT"
_NAMES = ("breakpoint", "set_trace")
_MAYBE = re.compile(rb"\b(?:breakpoint|set_trace)\s*\(")


def find_call(content: bytes) -> int | None:
    """Return the line of the first debugger call in a Python file; None if there is none, or on a syntax error."""
    if not _MAYBE.search(content):
        return None
    import ast
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    lines = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")) in _NAMES
    ]
    return min(lines, default=None)


def refuse_calls(
    files: Iterable[WorkspaceFile], root: Path, chosen: Sequence[Path], python_files: Sequence[str]
) -> None:
    """Raise `WorkspaceError` for a test file with a debugger call that is at or below one of the `chosen` paths."""
    for file in files:
        if file.debugger is None or not _is_test_file(file.path, python_files):
            continue
        path = root / file.path
        if any(path == place or path.is_relative_to(place) for place in chosen):
            raise WorkspaceError(
                f"{file.path}:{file.debugger} calls a debugger, but the job has no terminal: run this "
                f"test without --remote-ci, or set {VARIABLE}=0"
            )


def _is_test_file(path: str, patterns: Sequence[str]) -> bool:
    """Match as pytest's `python_files` does: a pattern with a slash is matched against the path."""
    name = path.rpartition("/")[2]
    return any(
        fnmatch(f"/{path}", f"*/{pattern}") if "/" in pattern else fnmatch(name, pattern)
        for pattern in patterns
    )
