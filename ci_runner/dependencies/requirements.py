"""Reader of requirements files, like pip's, into flat lists of lines; pure.

Nested ``-r`` and ``-c`` files are followed inside the workspace. The project itself (``.``, ``-e .``) is left out:
the project layer installs it. The lines are not interpreted; the installer does that.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

#: All lines end up in one file, so a name is enough to find a requirement again.
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(?:@|[=<>!~;(]|$|--)")
_COMMENT = re.compile(r"(^|\s)#.*$")
_NESTED = re.compile(r"(?:-r|--requirement|-c|--constraint)(?:\s*=\s*|\s*)(\S.*)$")
_EDITABLE = re.compile(r"(?:-e|--editable)(?:\s*=\s*|\s+)(\S.*)$")
_INDEX = re.compile(
    r"(?:-i|--index-url|--extra-index-url|-f|--find-links|--no-index|--index|--default-index)(?:[\s=]|$)"
)
_MAX_FILES = 200


@dataclass
class Requirements:
    """The contents of a set of requirements files."""

    #: Requirement lines, local paths relative to the project's root; never the project itself.
    lines: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    #: Options that choose indexes.
    index_options: list[str] = field(default_factory=list)
    #: Files read, in order.
    files: list[str] = field(default_factory=list)
    #: Files named but absent.
    missing: list[str] = field(default_factory=list)
    #: Extras with which the files name the project itself (``-e .[test]``).
    project_extras: list[str] = field(default_factory=list)


def normalized(name: str) -> str:
    """Return a distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(line: str) -> str | None:
    """Return the normalized name in a requirement line; None for paths, URLs and options."""
    match = _NAME.match(line)
    return normalized(match[1]) if match else None


def names(lines: Iterable[str]) -> set[str]:
    """Return the normalized names in requirement lines."""
    return {name for line in lines if (name := requirement_name(line)) is not None}


def read_all(paths: Iterable[str], read: Callable[[str], bytes | None]) -> Requirements:
    """Read `paths` and their includes; `read` returns a file's content, or None if it is absent."""
    result = Requirements()
    for path in paths:
        _read(path, False, read, result)
    return result


def _read(path: str, constraint: bool, read: Callable[[str], bytes | None], into: Requirements) -> None:
    path = posixpath.normpath(path)
    if path in into.files or len(into.files) >= _MAX_FILES:
        return
    content = read(path)
    if content is None:
        into.missing.append(path)
        return
    into.files.append(path)
    for line in logical_lines(content):
        nested = _NESTED.match(line)
        if nested:
            inner = posixpath.join(posixpath.dirname(path), nested[1].strip().strip("'\""))
            _read(inner, constraint or line.startswith(("-c", "--c")), read, into)
        elif _INDEX.match(line):
            into.index_options.append(line)
        elif constraint:
            into.constraints.append(line)
        else:
            _requirement(line, into)


def _requirement(line: str, into: Requirements) -> None:
    """Add one line of a requirements file that is neither nested nor an index option."""
    editable = _EDITABLE.match(line)
    target = (editable[1] if editable else line).strip().strip("'\"")
    bare, _, extras = target.partition("[")
    if posixpath.normpath(bare.strip() or "x") == "." or bare.strip() in ("file:.", "file:./"):
        into.project_extras.extend(name.strip() for name in extras.rstrip("]").split(",") if name.strip())
    elif editable or not line.startswith("-"):
        into.lines.append(line)


def logical_lines(content: bytes) -> list[str]:
    """Return the lines without comments, joined at continuation backslashes."""
    text = content.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\\\n", " ")
    stripped = (_COMMENT.sub("", line).strip() for line in text.split("\n"))
    return [line for line in stripped if line]
