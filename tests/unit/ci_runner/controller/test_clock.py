"""The controller's clock."""

from __future__ import annotations

import datetime as dt

from ci_runner.controller.clock import SteadyClock
from ci_runner.model.job import utcnow


def test_the_clock_is_about_the_wall_clock_and_never_goes_back() -> None:
    clock = SteadyClock()
    assert abs(clock() - utcnow()) < dt.timedelta(seconds=5)
    moments = [clock() for _ in range(1000)]
    assert moments == sorted(moments)
