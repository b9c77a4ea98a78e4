"""Lets pass what this machine lacks of what pytest asks for before it loads plugins, where tests run elsewhere.

That is what ``-p`` names and `minversion`. `early` brings it into `pytest --remote-ci`; ``remote-ci pytest ARGS`` is
the same where Python does not read ``.pth`` files, or where only the project's ``addopts`` says ``--remote-ci``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest


class Lenient:
    """A pytest plugin of any session; it does nothing in one that names no option of ours."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_parse(self, pluginmanager: Any, args: list[str]) -> None:
        """The first hook of all: nothing has been imported yet."""
        words = (*args, *os.environ.get("PYTEST_ADDOPTS", "").split())
        if not any(word.startswith("--remote-ci") for word in words):
            return
        config = pluginmanager.get_plugin("pytestconfig")
        if hasattr(config, "_checkversion"):
            config._checkversion = lambda: None
        pluginmanager.import_plugin = _tolerant(pluginmanager.import_plugin)


def _tolerant(load: Callable[..., None]) -> Callable[..., None]:
    def import_plugin(name: str, *args: Any, **kwargs: Any) -> None:
        try:
            load(name, *args, **kwargs)
        except Exception:  # whatever a plugin does that finds itself on the wrong machine
            return

    return import_plugin


def run(args: Sequence[str]) -> int:
    """Run the session that `remote-ci pytest ARGS` asks for; its exit code."""
    sys.argv[0] = "pytest"
    return int(pytest.main(["--remote-ci", *args], plugins=[Lenient()]))
