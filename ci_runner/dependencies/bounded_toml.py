"""Bounds for what a project's files contain: keys that take `tomllib` quadratic time, and texts without end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ci_runner.errors import EnvironmentFailed

#: More parts than any real key has.
MOST_PARTS: Final = 60

#: Maximum characters of any text: parsing a constraint may take quadratic time.
_LONGEST: Final = 1_000
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

_LONG_KEY: Final = re.compile(
    r"""(?<![\w-])(?:(?:"[^"\n]*"|'[^'\n]*'|[\w-]+)[ \t]*\.[ \t]*){"""
    rf"{MOST_PARTS},}}"
)


def line_of_long_key(text: str) -> int | None:
    """Return the line, counted from 1, of the first key too long for `tomllib`; None if there is none."""
    found = _LONG_KEY.search(text)
    return None if found is None else text.count("\n", 0, found.start()) + 1


def text(value: object, what: str, file: str = "pyproject.toml") -> str:
    """Return a value that has to be one line of text; raises `EnvironmentFailed` naming `what` in `file`."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise EnvironmentFailed(f"{file}: {what} must be text of at most {_LONGEST} characters")
    if _CONTROL.search(value):
        raise EnvironmentFailed(f"{file}: {what} must be one line without control characters")
    return value


def texts(value: object, what: str, file: str = "pyproject.toml") -> list[str]:
    """Return a value that has to be a list of lines of text."""
    if not isinstance(value, list):
        raise EnvironmentFailed(f"{file}: {what} must be a list of strings")
    return [text(item, what, file) for item in value]


def table(parent: object, *names: str) -> Mapping[str, object]:
    """Return the table at this path of keys; {} if there is none."""
    for name in names:
        parent = parent.get(name) if isinstance(parent, Mapping) else None
    return parent if isinstance(parent, Mapping) else {}
