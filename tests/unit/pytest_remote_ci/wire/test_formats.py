"""One format for each kind of value that people read."""

from __future__ import annotations

import time

import pytest

from pytest_remote_ci.wire import formats


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536 << 20, "1.5 GiB"),
        (512 << 20, "512 MiB"),
        ((1 << 20) - 1, "1 MiB"),
        (2 << 30, "2 GiB"),
        (3 << 50, "3072 TiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert formats.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.42, "0.4 s"),
        (2.0, "2 s"),
        (9.96, "10 s"),
        (12.4, "12 s"),
        (90, "90 s"),
        (120, "2 min"),
        (185, "3 min 5 s"),
        (3599.6, "60 min"),
        (7200, "2 h"),
        (7260, "2 h 1 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


def test_durations_of_tests() -> None:
    found = [formats.exact_duration(value) for value in (0.1234, 2, None, "x")]
    assert found == ["0.123 s", "2.000 s", "-", "-"]


def test_times_are_in_the_zone_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        assert formats.time("2026-01-02T03:04:05.678901Z") == "2026-01-02 05:04:05"
        assert formats.time("2026-01-02T03:04:05") == "2026-01-02 05:04:05", "UTC where no zone is named"
        assert formats.time("9999-12-31T23:59:59Z") == "N/A", "no such year here"
    finally:
        monkeypatch.undo()
        time.tzset()
    assert formats.time(None) == formats.time("yesterday") == "N/A"
    assert formats.time(None, "-") == "-"
    assert formats.parse_time(7) is None
