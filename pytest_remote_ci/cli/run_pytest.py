"""``remote-ci pytest ARGS``: `pytest --remote-ci ARGS` without pytest's checks before plugins are loaded.

pytest checks `minversion`, imports the plugins of ``-p`` and, since 9.0, the classes that `filterwarnings` names
before it loads plugins from entry points, such as this one. This machine may fail these checks, and tests on a runner
need none of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import pytest

from pytest_remote_ci.replay.pytest_internals import skip_version_check


class _SkipStartupChecks:
    """Ignore `minversion`, `filterwarnings` and plugins that cannot be imported."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_parse(self, pluginmanager: pytest.PytestPluginManager) -> None:
        """Patch the checks before pytest reads its settings."""
        config: pytest.Config | None = pluginmanager.get_plugin("pytestconfig")
        if config is not None:
            skip_version_check(config)
        vars(pluginmanager)["import_plugin"] = _ignore_errors(pluginmanager.import_plugin)


def _ignore_errors(import_plugin: Callable[..., None]) -> Callable[..., None]:
    def import_if_possible(name: str, *args: object, **kwargs: object) -> None:
        try:
            import_plugin(name, *args, **kwargs)
        except Exception:  # plugins of the project can raise anything
            return

    return import_if_possible


def run(args: Sequence[str]) -> int:
    """Run `pytest --remote-ci ARGS` and return its exit code."""
    sys.argv[0] = "pytest"
    return int(pytest.main(["--remote-ci", *args], plugins=[_SkipStartupChecks()]))
