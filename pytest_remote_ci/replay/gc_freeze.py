"""Reduce the work of Python's garbage collector while results arrive.

The stand-ins of a large collection live until the session's end, and each full collection would scan all of them.
Results create many small objects, so full collections are frequent: for ten thousand tests they cost a sixth of all
processor time.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Generator

import pytest


class GcFreeze:
    """A plugin that exempts existing objects from garbage collection from the first test until the session's end.

    When all results have arrived, they are exempted, too. That saves the scans of pytest's final search for objects
    that complain when collected (for the tests, pytest in the job makes that search), and of the interpreter's exit.
    """

    def __init__(self, config: pytest.Config) -> None:
        """Create this before `config` is configured: cleanups that are added later run earlier."""
        self._is_ours = False
        config.add_cleanup(self._release)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, None, None]:
        """Freeze objects around all results, unless other code has already frozen some."""
        self._is_ours = not gc.get_freeze_count()
        if self._is_ours:
            gc.freeze()
        yield
        if self._is_ours:
            gc.freeze()

    def _release(self) -> None:
        if self._is_ours:
            gc.unfreeze()
            atexit.register(gc.freeze)
