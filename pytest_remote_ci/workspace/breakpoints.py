"""Debuggers need a terminal where the tests run, and there is none: asking for one is refused before anything is sent.

Options are seen on the command line (`pytest_remote_ci.session.arguments`); calls are looked for in the test files
that were chosen, by their bytes first, and what was found is remembered with the file's digest
(`pytest_remote_ci.workspace.stat_cache`). A call that is reached nevertheless fails its test
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

#: A variable by which Python is told what `breakpoint()` does; whoever sets it knows of such calls.
VARIABLE = "PYTHONBREAKPOINT"
_NAMES = ("breakpoint", "set_trace")
_MAYBE = re.compile(rb"\b(?:breakpoint|set_trace)\s*\(")


def find_call(content: bytes) -> int | None:
    """The line of the first call of a debugger in a Python file; None when there is none, or it is no Python."""
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
    """Raise `WorkspaceError` for a test file with such a call that lies at or below one of the `chosen` paths."""
    for file in files:
        if file.debugger is None or not _is_test_file(file.path, python_files):
            continue
        path = root / file.path
        if any(path == place or path.is_relative_to(place) for place in chosen):
            raise WorkspaceError(
                f"{file.path}:{file.debugger} calls a debugger, and there is no terminal where the tests run: run that "
                f"test here, without --remote-ci, or set {VARIABLE}=0"
            )


def _is_test_file(path: str, patterns: Sequence[str]) -> bool:
    """As pytest's `python_files` has it: a pattern with a slash is matched against the path."""
    name = path.rpartition("/")[2]
    return any(
        fnmatch(f"/{path}", f"*/{pattern}") if "/" in pattern else fnmatch(name, pattern)
        for pattern in patterns
    )
