"""Tests that need something of the machine are skipped without it, and failed where CI is set.

The marker `docker` does the same: a skip in CI would hide a missing part of the machine.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def skip(reason: str) -> NoReturn:
    """Skip the running test; fail it where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(f"CI is set, and something is missing: {reason}", pytrace=False)
    pytest.skip(reason)
