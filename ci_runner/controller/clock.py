"""Clock for deadlines: the wall clock's time at the start plus the time that has really passed.

If the machine's clock is set, nothing expires early or late in this process. Time asleep counts.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import Final

from ci_runner.model.job import utcnow

#: Includes time asleep, if the system has such a clock.
_SOURCE: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SteadyClock:
    """A clock; call it for the current time, aware, in UTC."""

    def __init__(self) -> None:
        self._start = utcnow()
        self._zero = time.clock_gettime(_SOURCE)

    def __call__(self) -> dt.datetime:
        return self._start + dt.timedelta(seconds=time.clock_gettime(_SOURCE) - self._zero)
