"""The pauses between attempts, and when they end."""

from __future__ import annotations

import pytest

from pytest_remote_ci.client.retry import Backoff, pause


def test_pauses_grow_and_differ() -> None:
    early, late = [pause(1) for _ in range(50)], [pause(9) for _ in range(50)]
    assert max(early) <= 0.5 < 5.0 <= min(late)
    assert max(late) <= 10.0
    assert len(set(late)) > 10
    assert pause(1, retry_after=20) == 20


def test_patience_counts_from_the_last_contact(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    backoff = Backoff(patience=60)
    backoff.fail()

    def is_exhausted_at(moment: float) -> bool:
        now[0] = moment
        return backoff.is_exhausted

    assert not is_exhausted_at(160.0)
    assert is_exhausted_at(160.1)
    backoff.contact(forgive=False)
    assert (backoff.is_exhausted, backoff.failures) == (False, 1)
    backoff.contact()
    assert backoff.failures == 0


def test_waiting_sleeps_longer_after_more_failures() -> None:
    slept: list[float] = []
    backoff = Backoff(60, slept.append)
    for _ in range(6):
        backoff.fail()
        backoff.wait()
    backoff.wait(retry_after=33)
    assert slept[0] <= 0.5
    assert 5 <= slept[5] <= 10
    assert slept[-1] == 33
