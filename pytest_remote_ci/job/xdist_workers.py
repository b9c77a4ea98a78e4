"""The workers of pytest-xdist, which are processes of their own and get the command line as it was typed.

Before their pytest begins each is told by execnet to run this file, which lets their pytest know the options that are
ours, and makes log records for reports where somebody wants them. Standard library and pytest only.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import pytest

#: Seconds in which a worker does so.
_PATIENCE = 30
#: The package that the files beside this one are inside a job, there as here.
_PACKAGE = "_remote_ci"


class Workers:
    """A pytest plugin of xdist's controller."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """A worker has started, and does nothing yet. On another machine these files are not."""
        words = [*node.config.invocation_params.args, *node.config.getini("addopts")]
        words.append(os.environ.get("PYTEST_ADDOPTS", ""))
        if any("--remote-ci" in str(word) for word in words):
            with contextlib.suppress(Exception):  # as ever, then
                channel = node.gateway.remote_exec(sys.modules[__name__])
                channel.send(os.path.dirname(os.path.abspath(__file__)))
                channel.waitclose(_PATIENCE)


class InWorker:
    """A pytest plugin of a worker."""

    def pytest_configure(self, config: Any) -> None:
        """Options are known, and what is installed here."""
        logs = sys.modules[f"{_PACKAGE}.logs"]
        if logs.are_wanted(config):
            config.pluginmanager.register(logs.WorkersLogs(), logs.NAME)


def prepare(folder: str) -> None:
    """Let the pytest that this process will start have our plugins; `folder`: where these files are."""
    import importlib
    import types

    from _pytest import config

    package = sys.modules[_PACKAGE] = types.ModuleType(_PACKAGE)
    package.__path__ = [folder]
    boot: Any = importlib.import_module(f"{_PACKAGE}.boot")
    importlib.import_module(f"{_PACKAGE}.logs")
    original: Any = config.get_config

    def get_config(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        # Reports of a worker's own would be in nobody's place.
        for plugin in (boot.InertOptions(), InWorker()):
            made.pluginmanager.register(plugin)
        return made

    config.get_config = get_config


if __name__ == "__channelexec__":  # execnet's name for what it runs at the other end
    prepare(channel.receive())  # type: ignore[name-defined] # noqa: F821
