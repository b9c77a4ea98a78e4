"""Protection from TOML that takes `tomllib` quadratic time: keys with thousands of parts."""

from __future__ import annotations

import re
from typing import Final

#: More parts than any real key has.
MOST_PARTS: Final = 60

_LONG_KEY: Final = re.compile(
    r"""(?<![\w-])(?:(?:"[^"\n]*"|'[^'\n]*'|[\w-]+)[ \t]*\.[ \t]*){"""
    rf"{MOST_PARTS},}}"
)


def line_of_long_key(text: str) -> int | None:
    """Return the line, counted from 1, of the first key too long for `tomllib`; None if there is none."""
    found = _LONG_KEY.search(text)
    return None if found is None else text.count("\n", 0, found.start()) + 1
