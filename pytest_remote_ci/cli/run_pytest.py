"""``remote-ci pytest ARGS``: `pytest --remote-ci ARGS` where this machine lacks what pytest asks for before plugins.

pytest compares `minversion` and imports what ``-p`` names before it loads plugins of entry points, such as ours. A
session whose tests run elsewhere needs neither.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest


class _SkipStartupChecks:
    """Ignore `minversion` and plugins that cannot be imported; both are private to pytest."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_parse(self, pluginmanager: Any) -> None:
        """Called before pytest reads its settings."""
        config = pluginmanager.get_plugin("pytestconfig")
        if hasattr(config, "_checkversion"):
            config._checkversion = lambda: None
        pluginmanager.import_plugin = _ignore_errors(pluginmanager.import_plugin)


def _ignore_errors(import_plugin: Callable[..., None]) -> Callable[..., None]:
    def import_if_possible(name: str, *args: Any, **kwargs: Any) -> None:
        try:
            import_plugin(name, *args, **kwargs)
        except Exception:  # a plugin of the project may raise anything here
            return

    return import_if_possible


def run(args: Sequence[str]) -> int:
    """Run `pytest --remote-ci ARGS`; its exit code."""
    sys.argv[0] = "pytest"
    return int(pytest.main(["--remote-ci", *args], plugins=[_SkipStartupChecks()]))
