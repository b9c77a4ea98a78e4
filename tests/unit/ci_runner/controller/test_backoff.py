"""How long what failed is left alone."""

from __future__ import annotations

import datetime as dt
import random

import pytest

from ci_runner.controller.backoff import Backoff

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc)


def later(seconds: float) -> dt.datetime:
    return NOW + dt.timedelta(seconds=seconds)


@pytest.fixture
def backoff() -> Backoff:
    return Backoff(base=1.0, cap=8.0, random=random.Random(1))


def test_nothing_is_held_before_a_failure(backoff: Backoff) -> None:
    assert backoff.held(NOW) == frozenset()


def test_a_failure_holds_for_a_while(backoff: Backoff) -> None:
    assert backoff.failed("a", NOW) == 1
    assert backoff.held(later(0.4)) == {"a"}
    assert backoff.held(later(1)) == frozenset()


def test_failures_in_a_row_hold_longer_up_to_the_cap(backoff: Backoff) -> None:
    assert [backoff.failed("a", NOW) for _ in range(50)] == list(range(1, 51))
    assert backoff.held(later(3.9)) == {"a"}
    assert backoff.held(later(8)) == frozenset()


def test_a_failure_may_ask_for_more(backoff: Backoff) -> None:
    backoff.failed("a", NOW, at_least=60)
    assert backoff.held(later(59)) == {"a"}


def test_success_starts_anew(backoff: Backoff) -> None:
    backoff.failed("a", NOW)
    backoff.succeeded("a")
    assert backoff.held(NOW) == frozenset()
    assert backoff.failed("a", NOW) == 1


def test_an_old_failure_is_forgotten(backoff: Backoff) -> None:
    backoff.failed("a", NOW)
    backoff.held(later(3600))
    assert backoff.failed("a", later(3600)) == 1


def test_something_may_be_held_without_a_failure(backoff: Backoff) -> None:
    backoff.hold("a", NOW, 5)
    assert backoff.held(later(4)) == {"a"}
    assert backoff.failed("a", NOW) == 1


def test_waits_differ_between_subjects(backoff: Backoff) -> None:
    for number in range(100):
        backoff.failed(str(number), NOW)
    assert 10 < len(backoff.held(later(0.75))) < 90
