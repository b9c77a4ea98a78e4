"""Make calls of a debugger fail inside a job, where they would wait for input forever.

The client refuses calls in selected test files before anything is sent; this handles all others. So do workers
of pytest-xdist before their pytest begins. Standard library and pytest only.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from . import pytest_internals

if TYPE_CHECKING:
    from .pytest_internals import WorkerController

#: Seconds to wait for a worker to run this file.
_PATIENCE = 30


class NoDebugger:
    """A pytest plugin that replaces the debugger by a failure."""

    def pytest_configure(self) -> None:
        """Do it in this process."""
        pytest_internals.forbid_debuggers()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: WorkerController) -> None:
        """Do it in a new worker of pytest-xdist, which is idle."""
        with contextlib.suppress(Exception):  # on an error the worker works as without us
            node.gateway.remote_exec(pytest_internals).waitclose(_PATIENCE)
