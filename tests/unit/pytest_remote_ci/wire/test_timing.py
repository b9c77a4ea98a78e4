"""Timing: parsed tolerantly from a runner, strictly from a client."""

from __future__ import annotations

import pytest

from pytest_remote_ci.wire.protocol import SubmitOptions, WireError
from pytest_remote_ci.wire.timing import PHASES, Stopwatch, Timing, as_client_phases


def test_it_survives_the_wire_with_its_phases_in_order() -> None:
    timing = Timing({"end": 0.5, "start": 1.0}, ("environment built in 1.0 s: requirements.txt changed",))
    raw = timing.to_dict()
    phases = raw["phases"]
    assert isinstance(phases, dict)
    assert list(phases) == ["start", "end"]
    assert Timing.parse(raw) == timing
    assert timing.total == 1.5


@pytest.mark.parametrize("raw", [None, 1, [], {}, {"phases": []}, {"cold": ["x"]}])
def test_a_runner_that_measured_nothing_has_no_timing(raw: object) -> None:
    assert Timing.parse(raw) is None


def test_what_a_client_does_not_know_or_cannot_use_is_left_out() -> None:
    bad = {"later": 1.0, "end": -1, "tests": "2", "queue": True, "pack": float("nan"), "fetch": 10**400}
    raw = {"phases": {"start": 1, **bad}, "cold": ["because", 3, "x" * 1000, *["more"] * 20]}
    timing = Timing.parse(raw)
    assert timing is not None
    assert timing.phases == {"start": 1.0}
    assert timing.cold[:2] == ("because", "x" * 500)
    assert len(timing.cold) == 10


@pytest.mark.parametrize("value", [[], 1, {"start": "1"}, {"pack": -1}, {"collect": True}, {"start": 1e400}])
def test_a_client_must_send_seconds(value: object) -> None:
    with pytest.raises(WireError, match=r"^options.timing: "):
        SubmitOptions.from_dict({"timing": value})


def test_a_newer_clients_phases_are_ignored_and_runners_phases_are_not_accepted() -> None:
    assert as_client_phases("x", {"start": 1, "tests": 5, "later": "?"}) == {"start": 1.0}


def test_a_stopwatch_gives_all_time_to_the_phases_but_what_is_skipped() -> None:
    clock = Stopwatch(began=-1e6)
    clock.lap("start")
    clock.lap("collect")
    clock.skip()
    clock.lap("collect")
    assert clock.phases["start"] > 1e6
    assert 0 <= clock.phases["collect"] < 1e6
    assert clock.phases.keys() <= PHASES.keys()
