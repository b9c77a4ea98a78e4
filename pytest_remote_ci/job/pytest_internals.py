"""Check which modules implement a pytest hook: if only pytest does, the result is known. Standard library only."""

from __future__ import annotations

from typing import Any

#: Prefix of the names of pytest's own modules.
PYTEST = "_pytest."


def all_are_of(hook: Any, *owners: str) -> bool:
    """Whether the module names of all implementations, wrappers included, begin with one of `owners`."""
    return all(
        (getattr(implementation.function, "__module__", "") or "").startswith(owners)
        for implementation in hook.get_hookimpls()
    )
