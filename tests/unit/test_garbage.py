"""The garbage collector leaves what was collected alone while tests are told, and nothing is left set apart."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from pytest_remote_ci.replay.garbage import Settled

pytest_plugins = ["pytester"]


@pytest.fixture
def nothing_set_apart() -> Iterator[None]:
    before = gc.get_freeze_count()
    gc.unfreeze()
    yield
    gc.unfreeze()
    if before:
        gc.freeze()


class Looks:
    """What is set apart while tests run, and behind them."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def pytest_runtest_logstart(self) -> None:
        self.counts.append(gc.get_freeze_count())

    def pytest_sessionfinish(self) -> None:
        self.counts.append(gc.get_freeze_count())


@pytest.mark.usefixtures("nothing_set_apart")
@pytest.mark.parametrize("body", ["pass", "raise KeyboardInterrupt"], ids=["in order", "interrupted"])
def test_what_was_there_is_set_apart_until_the_tests_are_over(pytester: pytest.Pytester, body: str) -> None:
    pytester.makepyfile(f"def test():\n    {body}")
    looks = Looks()
    pytester.inline_run("-p", "no:remote_ci", plugins=[looks, Settled()], no_reraise_ctrlc=True)
    during, after = looks.counts
    assert during > 1000
    assert after == 0


@pytest.mark.usefixtures("nothing_set_apart")
def test_what_somebody_else_has_set_apart_stays_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test():\n    pass")
    gc.freeze()
    looks = Looks()
    pytester.inline_run("-p", "no:remote_ci", plugins=[looks, Settled()])
    during, after = looks.counts  # what dies meanwhile is no longer counted
    assert during >= after > 1000
