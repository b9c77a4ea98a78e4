"""Started with Python, in processes whose command line or `PYTEST_ADDOPTS` names an option of ours, to be in pytest
before it loads any plugin.

pytest imports what ``-p`` names (mostly in ``addopts``) and compares ``minversion`` before it loads the first entry
point, and a session whose tests run elsewhere needs neither (see `lenient`). `pytest_remote_ci.pth`, which lies beside
this package, calls `watch`; in other processes it does nothing. Nothing but the standard library is there yet, and
maybe not all of it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_CONFIG = "_pytest.config"


class _Finder:
    """Finds one module as everybody else would, and has a say when it has been executed."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Of pytest's `config`, once."""
        if name != _CONFIG:
            return None
        sys.meta_path.remove(cls)
        spec = importlib.util.find_spec(name)
        loader: Any = spec.loader if spec is not None else None
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                _join(module)

            loader.exec_module = exec_module
        return spec


def watch() -> None:
    """Be there as soon as pytest is imported."""
    if _CONFIG not in sys.modules and _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


def _join(config: Any) -> None:
    """Add a plugin to each session. The function is private to pytest: without it nothing is let pass."""
    make = getattr(config, "get_config", None)
    if make is None:
        return

    def get_config(*args: Any, **kwargs: Any) -> Any:
        from pytest_remote_ci.lenient import Lenient

        made = make(*args, **kwargs)
        made.pluginmanager.register(Lenient())
        return made

    config.get_config = get_config
