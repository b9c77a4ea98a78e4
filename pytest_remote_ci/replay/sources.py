"""Classes of test files for editors that ask `inspect` where they begin: found in the files here, none is imported."""

from __future__ import annotations

import ast
import functools
import sys
from pathlib import Path
from types import ModuleType

#: Bytes of a file that is looked into.
_LARGEST = 8 << 20


def stand_in(path: Path, qualname: str, doc: str | None) -> type:
    """An empty class of which `inspect` finds the source where that of the class `qualname` in `path` is, if it is."""
    members: dict[str, object] = {"__module__": "remote-ci", "__qualname__": qualname, "__doc__": doc}
    line = _lines(path).get(qualname)
    if line is not None:
        members |= {
            "__module__": _module(path),
            "__firstlineno__": line,
        }  # older Pythons look into the file again
    return type(qualname.rpartition(".")[2], (), members)


def _module(path: Path) -> str:
    """The name of an empty module that is known to come from this file."""
    name = f"remote-ci:{path}"
    if name not in sys.modules:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__file__ = str(path)
    return name


@functools.lru_cache(maxsize=256)
def _lines(path: Path) -> dict[str, int]:
    """Qualified names of the classes in a file → the lines where they begin, with their decorators."""
    try:
        if (
            not path.is_file() or path.stat().st_size > _LARGEST
        ):  # the path is a remote one: it may name a pipe
            return {}
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return {}
    found: dict[str, int] = {}
    waiting: list[tuple[ast.AST, str]] = [(tree, "")]
    while waiting:
        node, above = waiting.pop()
        for child in ast.iter_child_nodes(node):
            name = above
            if isinstance(child, ast.ClassDef):
                first = child.decorator_list[0] if child.decorator_list else child
                found.setdefault(above + child.name, first.lineno)
                name = f"{above}{child.name}."
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                name = f"{above}{child.name}.<locals>."
            waiting.append((child, name))
    return found
