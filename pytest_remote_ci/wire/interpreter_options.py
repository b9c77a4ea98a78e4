"""Options of the interpreter that a job's pytest may be started with: ``python -O -W error -m pytest``.

Each is one argument (``-Werror``, ``-Xdev``). Accepted are those that change what tests see, never those that run other
code or change how the process ends (``-c``, ``-m``, ``-i``). Standard library only.
"""

from __future__ import annotations

import re
from typing import Final

from pytest_remote_ci.wire import checks

#: Options without a value.
FLAGS: Final = frozenset({"-B", "-E", "-I", "-O", "-OO", "-P", "-b", "-bb", "-s"})
#: Names that ``-X`` accepts. Pythons ignore names that they do not know.
IMPLEMENTATION: Final = frozenset(
    {
        "context_aware_warnings",
        "cpu_count",
        "dev",
        "faulthandler",
        "gil",
        "int_max_str_digits",
        "no_debug_ranges",
        "thread_inherit_context",
        "tracemalloc",
        "utf8",
        "warn_default_encoding",
    }
)
#: Most options of one job.
MAX_OPTIONS: Final = 200

_VALUE = re.compile(r"(=\w*)?\Z", re.ASCII)


def as_interpreter_options(where: str, value: object) -> tuple[str, ...]:
    """Return a list of interpreter options as a tuple; raises `WireError`."""
    options = checks.as_texts(where, value)
    if len(options) > MAX_OPTIONS:
        raise checks.WireError(f"{where}: at most {MAX_OPTIONS} options")
    for index, option in enumerate(options):
        if not _is_accepted(option):
            raise checks.WireError(
                f"{where}[{index}]: {option[:100]!r} is not accepted: use -W…, "
                f"{', '.join(sorted(FLAGS))}, or -X with {', '.join(sorted(IMPLEMENTATION))}"
            )
    return options


def _is_accepted(option: str) -> bool:
    if option.startswith("-W"):
        return len(option) > 2
    if option.startswith("-X"):
        name, equals, value = option[2:].partition("=")
        return name in IMPLEMENTATION and _VALUE.match(equals + value) is not None
    return option in FLAGS
