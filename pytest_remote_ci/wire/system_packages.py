"""Names of packages of the image's distribution that a job asks for, such as ``libcairo2-dev``.

They become arguments of a package manager that root runs. So a name is never an option, a path, a pattern, a version or
one of the signs by which package managers remove packages (``name-``, ``!name``). Standard library only.
"""

from __future__ import annotations

import re
from typing import Final

#: Most packages of one job.
MAX_PACKAGES: Final = 100
#: Most characters of a name.
MAX_LENGTH: Final = 100

#: Ends in a letter, a digit or ``++``: apt takes another ``-`` or ``+`` at the end for a sign.
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9+._-]*([A-Za-z0-9]|\+\+))?\Z")


def problem(name: str) -> str | None:
    """Return why `name` cannot be a package's, as words that can follow it; None if it can."""
    if len(name) > MAX_LENGTH or _NAME.match(name) is None:
        return "is not the name of a package: write it like libcairo2-dev, without a version"
    return None
