"""The garbage collector leaves what was collected alone until the session is over, and nothing is left set apart."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from pytest_remote_ci.replay.gc_freeze import GcFreeze


@pytest.fixture
def nothing_set_apart() -> Iterator[None]:
    before = gc.get_freeze_count()
    gc.unfreeze()
    yield
    gc.unfreeze()
    if before:
        gc.freeze()


class Looks:
    """What is set apart while tests run."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        #: Made while tests run, and whether it is still looked through when they are over.
        self.made: list[object] = []
        self.is_looked_through = True

    def pytest_cmdline_main(self, config: pytest.Config) -> None:
        config.pluginmanager.register(GcFreeze(config))

    def pytest_runtest_logstart(self) -> None:
        self.counts.append(gc.get_freeze_count())
        self.made.append([self.made])

    def pytest_sessionfinish(self) -> None:
        self.is_looked_through = any(thing is self.made[0] for thing in gc.get_objects())


@pytest.mark.usefixtures("nothing_set_apart")
@pytest.mark.parametrize("body", ["pass", "raise KeyboardInterrupt"], ids=["in order", "interrupted"])
def test_what_was_there_is_set_apart_until_the_tests_are_over(pytester: pytest.Pytester, body: str) -> None:
    pytester.makepyfile(f"def test():\n    {body}")
    looks = Looks()
    pytester.inline_run("-p", "no:remote_ci", plugins=[looks], no_reraise_ctrlc=True)
    assert looks.counts[0] > 1000
    assert not looks.is_looked_through
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("nothing_set_apart")
def test_what_somebody_else_has_set_apart_stays_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test():\n    pass")
    gc.freeze()
    looks = Looks()
    pytester.inline_run("-p", "no:remote_ci", plugins=[looks])
    # What dies meanwhile is no longer counted.
    assert looks.counts[0] >= gc.get_freeze_count() > 1000


CONFTEST = """
import atexit, gc
from pytest_remote_ci.replay.gc_freeze import GcFreeze
atexit.register(lambda: print("set apart:", gc.get_freeze_count() > 1000))
def pytest_cmdline_main(config):
    config.pluginmanager.register(GcFreeze(config))
"""


def test_the_interpreter_need_not_look_through_it_at_its_end(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test():\n    pass")
    pytester.makeconftest(CONFTEST)
    result = pytester.runpytest_subprocess("-p", "no:remote_ci")
    result.stdout.fnmatch_lines(["*1 passed*", "set apart: True"])
