"""A pytest plugin for benchmarks: how long after its end the local hook hears of a test.

Loaded by ``PYTEST_PLUGINS`` (which stays on this side); `REPLAY_CLOCK` names the file. Seconds since the epoch; both
clocks are this machine's.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

_marks: list[str] = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A phase of a test is reported."""
    if report.when == "call":
        _marks.append(json.dumps({"id": report.nodeid, "ended": report.stop, "heard": time.time()}) + "\n")


def pytest_unconfigure() -> None:
    """The session is over."""
    Path(os.environ["REPLAY_CLOCK"]).write_text("".join(_marks))
