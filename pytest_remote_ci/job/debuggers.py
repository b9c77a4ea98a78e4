"""No debugger inside a job: whoever calls one fails, where waiting for somebody to type would be for ever.

Calls in chosen test files are refused by the client before anything is sent; this is for all others. The workers of
pytest-xdist are told before their pytest begins: they run this file. Standard library and pytest only.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import pytest

#: Seconds in which a worker does so.
_PATIENCE = 30


class NoDebugger:
    """A pytest plugin."""

    def pytest_configure(self) -> None:
        """`breakpoint()` and `pdb.set_trace()` both go through one private function of pytest's."""
        with contextlib.suppress(ImportError, AttributeError):
            from _pytest import debugging

            debugging.pytestPDB._init_pdb = self._fail  # type: ignore[method-assign]

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """A worker of pytest-xdist has started, and does nothing yet."""
        with contextlib.suppress(Exception):  # as ever, then
            node.gateway.remote_exec(sys.modules[__name__]).waitclose(_PATIENCE)

    def _fail(self, method: str, *args: Any, **kwargs: Any) -> Any:
        frame = sys._getframe(1).f_back
        place = f"{os.path.relpath(frame.f_code.co_filename)}:{frame.f_lineno}: " if frame else ""
        pytest.fail(
            f"{place}a debugger was called, and there is no terminal here: run this test without --remote-ci, "
            "or set PYTHONBREAKPOINT=0",
            pytrace=False,
        )


if __name__ == "__channelexec__":  # execnet's name for what it runs at the other end
    NoDebugger().pytest_configure()
