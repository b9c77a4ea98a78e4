"""Make calls of a debugger fail inside a job, where they would wait for input forever.

The client refuses calls in selected test files before anything is sent; this handles all others. Workers of
pytest-xdist run this file before their pytest begins. Standard library and pytest only.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import pytest

#: Seconds to wait for a worker to run this file.
_PATIENCE = 30


class NoDebugger:
    """A pytest plugin that replaces the debugger by a failure."""

    def pytest_configure(self) -> None:
        """Replace the private function that both `breakpoint()` and `pdb.set_trace()` call."""
        with contextlib.suppress(ImportError, AttributeError):
            from _pytest import debugging

            debugging.pytestPDB._init_pdb = self._fail  # type: ignore[method-assign]

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Run this file in a new worker of pytest-xdist, which is idle."""
        with contextlib.suppress(Exception):  # on an error the worker works as without us
            node.gateway.remote_exec(sys.modules[__name__]).waitclose(_PATIENCE)

    def _fail(self, method: str, *args: Any, **kwargs: Any) -> Any:
        frame = sys._getframe(1).f_back
        place = f"{os.path.relpath(frame.f_code.co_filename)}:{frame.f_lineno}: " if frame else ""
        pytest.fail(
            f"{place}a debugger was called, and there is no terminal here: run this test without --remote-ci, "
            "or set PYTHONBREAKPOINT=0",
            pytrace=False,
        )


if __name__ == "__channelexec__":  # the name under which execnet runs a module remotely
    NoDebugger().pytest_configure()
