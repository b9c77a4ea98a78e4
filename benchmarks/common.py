"""What benchmarks share: an environment without settings of whoever runs them, and numbers on the command line."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Figures = TypeVar("Figures")

#: Variables that change what pytest, Python, git, the client or the runner do.
_HIDDEN = (
    "PYTEST_",
    "CI_RUNNER_",
    "CI_SERVER_",
    "CI_API_",
    "CI_DB_",
    "REMOTE_CI_",
    "XDG_",
    "COV",
    "GIT_",
    "PYTHON",
)
_HIDDEN_NAMES = ("CI", "BUILD_NUMBER", "PY_COLORS", "FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES")
#: How packages reach this machine, which environment builds need.
_PACKAGES = frozenset(
    f"CI_RUNNER_{name}"
    for name in ("INDEX_URL", "EXTRA_INDEX_URLS", "CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
)


def clean_environment() -> dict[str, str]:
    """The environment without settings of pytest, Python, git, clients and runners."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PACKAGES or not (name.startswith(_HIDDEN) or name in _HIDDEN_NAMES)
    }


def positive(text: str) -> int:
    """A number of runs, tests or files, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def not_negative(text: str) -> int:
    """The same, or 0 for none."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number


@contextmanager
def report_at_end(
    figures: Callable[[], Figures], show: Callable[[Figures], None], *, as_json: bool
) -> Iterator[None]:
    """Show the figures, or print them as JSON, when the block ends, also early: what was measured until then.

    SIGTERM ends the block as Ctrl-C does, so that programs that were started end, too.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        yield
    finally:
        if as_json:
            print(json.dumps(figures(), indent=1))
        else:
            show(figures())
