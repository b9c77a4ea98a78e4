"""Whose implementations a hook of pytest has: where only pytest answers, the answer is known. Standard library only."""

from __future__ import annotations

from typing import Any

#: How the names of pytest's own modules begin.
PYTEST = "_pytest."


def all_are_of(hook: Any, *owners: str) -> bool:
    """Whether the modules of all implementations, wrappers included, have names that begin with one of `owners`."""
    return all(
        (getattr(implementation.function, "__module__", "") or "").startswith(owners)
        for implementation in hook.get_hookimpls()
    )
