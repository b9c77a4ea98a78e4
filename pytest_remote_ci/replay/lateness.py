"""Give a session that is shown later its original duration in summaries and reports.

pytest measures the time since the value of an attribute of each reporter, so that value is set back. The attributes
are private: if they have other names, the duration is that of the replay.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest


def seconds_between(first: object, last: object) -> float | None:
    """Return the seconds between two ISO timestamps, at least 0.0; None if either is missing or invalid."""
    try:
        start, end = (datetime.fromisoformat(str(text).replace("Z", "+00:00")) for text in (first, last))
    except ValueError:
        return None
    return max(0.0, (end - start).total_seconds())


def backdate(config: pytest.Config, seconds: float) -> None:
    """Set the session's start so many seconds back."""
    from _pytest.junitxml import xml_key

    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    xml: Any = config.stash.get(xml_key, None)
    for owner, instant, old in (
        (reporter, "_session_start", "_sessionstarttime"),
        (xml, "suite_start", "suite_start_time"),
    ):
        if hasattr(getattr(owner, instant, None), "perf_count"):  # pytest 8.4 and newer
            begun = type(getattr(owner, instant))()
            object.__setattr__(begun, "time", begun.time - seconds)
            object.__setattr__(begun, "perf_count", begun.perf_count - seconds)
            setattr(owner, instant, begun)
        elif hasattr(owner, old):
            setattr(owner, old, time.time() - seconds)
