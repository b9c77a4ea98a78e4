"""Prepare the workers of pytest-xdist, which are separate processes and get the command line as it was typed.

Before a worker's pytest begins, execnet runs this file in it. It makes our options known to that pytest, and attaches
log records to reports if they are wanted. Standard library and pytest only.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .pytest_internals import WorkerController

#: Seconds to wait for a worker to run this file.
_PATIENCE = 30
#: The package name of the files next to this one inside a job, in workers as in the controller.
_PACKAGE, _ROOT = "_remote_ci.job", "_remote_ci"


class Workers:
    """A pytest plugin of xdist's controller."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: WorkerController) -> None:
        """Run this file in a new worker, which is idle; on another machine these files do not exist."""
        words = [*node.config.invocation_params.args, *node.config.getini("addopts")]
        words.append(os.environ.get("PYTEST_ADDOPTS", ""))
        if any("--remote-ci" in str(word) for word in words):
            with contextlib.suppress(Exception):  # on an error the worker works as without us
                channel = node.gateway.remote_exec(sys.modules[__name__])
                channel.send(os.path.dirname(os.path.abspath(__file__)))
                channel.waitclose(_PATIENCE)


class InWorker:
    """A pytest plugin of a worker."""

    def pytest_configure(self, config: pytest.Config) -> None:
        """Register the log plugin, once options and installed plugins are known."""
        logs = sys.modules[f"{_PACKAGE}.logs"]
        if logs.are_wanted(config):
            config.pluginmanager.register(logs.WorkersLogs(), logs.NAME)


def prepare(folder: str) -> None:
    """Add our plugins to the pytest that this process will start; `folder`: the path of these files."""
    import importlib
    import types

    for name, folders in ((_ROOT, [folder, os.path.dirname(folder)]), (_PACKAGE, [folder])):
        package = sys.modules[name] = types.ModuleType(name)
        package.__path__ = folders
    boot = importlib.import_module(f"{_PACKAGE}.boot")
    importlib.import_module(f"{_PACKAGE}.logs")
    internals = importlib.import_module(f"{_PACKAGE}.pytest_internals")
    # No recorder: only the controller records reports.
    internals.register_in_new_configs(lambda: [boot.InertOptions(), InWorker()])


if __name__ == "__channelexec__":  # the name under which execnet runs a module remotely
    prepare(channel.receive())  # type: ignore[name-defined] # noqa: F821  # execnet defines it
