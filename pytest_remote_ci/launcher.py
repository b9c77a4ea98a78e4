"""``remote-ci pytest ARGS``: `pytest --remote-ci ARGS` where this machine lacks what pytest asks for before plugins.

Plugins named by ``-p`` (mostly in ``addopts``) are imported, and ``minversion`` is compared, before any entry point is
loaded, so `pytest --remote-ci` cannot let them pass. Started from here, pytest has this plugin from the beginning.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest


class Lenient:
    """A pytest plugin for sessions whose tests run elsewhere."""

    def __init__(self) -> None:
        #: Plugins that were asked for and cannot be imported here.
        self.missing: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_parse(self, pluginmanager: Any, args: list[str]) -> None:
        """The first hook of all: nothing has been imported yet."""
        config = pluginmanager.get_plugin("pytestconfig")
        if hasattr(config, "_checkversion"):
            config._checkversion = lambda: None
        pluginmanager.import_plugin = self._tolerant(pluginmanager.import_plugin)

    def _tolerant(self, load: Callable[..., None]) -> Callable[..., None]:
        def import_plugin(name: str, *args: Any, **kwargs: Any) -> None:
            try:
                load(name, *args, **kwargs)
            except Exception:  # whatever a plugin does that finds itself on the wrong machine
                self.missing.append(name)

        return import_plugin


def run(args: Sequence[str]) -> int:
    """Run the session; its exit code."""
    sys.argv[0] = "pytest"
    return int(pytest.main(["--remote-ci", *args], plugins=[Lenient()]))
