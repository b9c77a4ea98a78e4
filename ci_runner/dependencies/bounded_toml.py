"""Refuse TOML for which `tomllib` takes quadratic time: a key of thousands of parts."""

from __future__ import annotations

import re
from typing import Final

#: More parts than any key has.
MOST_PARTS: Final = 60

_LONG_KEY: Final = re.compile(
    r"""(?<![\w-])(?:(?:"[^"\n]*"|'[^'\n]*'|[\w-]+)[ \t]*\.[ \t]*){"""
    rf"{MOST_PARTS},}}"
)


def line_of_long_key(text: str) -> int | None:
    """Return the line of the first key that `tomllib` must not be given, counted from 1."""
    found = _LONG_KEY.search(text)
    return None if found is None else text.count("\n", 0, found.start()) + 1
