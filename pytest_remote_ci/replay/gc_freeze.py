"""Less work for Python's garbage collector while results come in.

The proxies of a large collection live to the session's end, and each full collection would look through all of them.
Results bring many small objects, so full collections are frequent: for ten thousand tests they cost a sixth of all
processor time.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Generator

import pytest


class Settled:
    """A plugin: what exists when the tests begin is left alone until all is over.

    So are the results, when all have come: by pytest's own last looks for objects that complain when they are
    collected (those of the tests are over there, where it looks for them, too), and by the interpreter's at its end.
    """

    def __init__(self, config: pytest.Config) -> None:
        """Made before `config` is configured: what is made later is cleaned up earlier."""
        self._is_ours = False
        config.add_cleanup(self._release)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, None, None]:
        """Around all results; nothing happens where somebody else has set objects apart."""
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
