"""Warnings that reporters here emit while they hear of a test, between those that the test emitted over there.

In a direct run pytest catches both in one list and tells of it when the test is over. Over there its warnings are
recorded then, each with its place (see `pytest_remote_ci.job.warned`), so those from here wait for them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import pytest

from pytest_remote_ci.job.warned import ASIDE, REPORT, TEST

#: Place and arguments of `pytest_warning_recorded`.
_Found = tuple[tuple[int, int], dict[str, Any]]


class Warned:
    """Of one session."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        #: What was emitted while the test that runs is told, and how many there were before and after each report.
        self._log: list[warnings.WarningMessage] | None = None
        self._marks: list[tuple[int, int]] = []
        #: The test that is over and whose warnings wait for those from over there.
        self.nodeid: str | None = None
        self._ours: list[_Found] = []
        self._theirs: list[tuple[Any, dict[str, Any]]] = []
        #: For `warn_explicit`: what each file has warned of.
        self._registries: dict[str, dict[Any, Any]] = {}

    @contextmanager
    def during(self, nodeid: str, *, is_distributed: bool) -> Generator[None, None, None]:
        """Around the telling of a test, inside of `pytest_runtest_protocol`."""
        if not self._config.pluginmanager.hasplugin("warnings"):
            yield
            return
        outer = self._log, self._marks
        with warnings.catch_warnings(record=True) as log:
            if is_distributed:
                warnings.simplefilter("always")
            self._log, self._marks = log, []
            try:
                yield
            finally:
                found, marks = log, self._marks
                self._log, self._marks = outer
                if found and is_distributed:
                    self._ours += [((0, ASIDE), {"warning_message": message}) for message in found]
                elif found:
                    self._keep(nodeid, found, marks)

    def tell(self, listeners: Callable[..., Any], report: Any, event: dict[str, Any]) -> None:
        """Tell them of a report, whose record this is."""
        if event.get("filters"):  # the test has changed them: what was a warning before is one again
            with warnings.catch_warnings():
                pass
        log = self._log
        before = len(log) if log is not None else 0
        listeners(report=report)
        if log is not None:
            self._marks.append((before, len(log)))

    def take(self, event: dict[str, Any], arguments: dict[str, Any]) -> None:
        """A warning from over there."""
        if self.nodeid is not None and event.get("id") == self.nodeid:
            self._theirs.append((event.get("place"), arguments))
        else:
            self._record(arguments)

    def settle_before(self, event: dict[str, Any]) -> None:
        """The next event: a warning of the same test, or there are no more. What is no record may come between them."""
        kind = event.get("t")
        if self.nodeid is None or kind is None or (kind == "warning" and event.get("id") == self.nodeid):
            return
        self.settle()

    def settle(self) -> None:
        """Tell of all that wait."""
        if self.nodeid is None:
            return
        ours, theirs = self._ours, self._theirs
        self.nodeid, self._ours, self._theirs = None, [], []
        for arguments in _merged(ours, theirs):
            self._record(arguments)

    def let_go(self) -> None:
        """Outside of what catches warnings: where xdist runs nobody in a direct run catches what reporters emit."""
        if self.nodeid is not None:
            return
        ours, self._ours = self._ours, []
        for _, arguments in ours:
            message = arguments["warning_message"]
            registry = self._registries.setdefault(message.filename, {})
            warnings.warn_explicit(
                message.message, message.category, message.filename, message.lineno,
                registry=registry, source=message.source,
            )  # fmt: skip

    def _keep(self, nodeid: str, found: list[warnings.WarningMessage], marks: list[tuple[int, int]]) -> None:
        self.settle()
        self.nodeid = nodeid
        for index, message in enumerate(found):
            arguments = {"warning_message": message, "when": "runtest", "nodeid": nodeid, "location": None}
            self._ours.append((_place(index, marks), arguments))

    def _record(self, arguments: dict[str, Any]) -> None:
        self._config.hook.pytest_warning_recorded.call_historic(kwargs=arguments)


def _place(index: int, marks: list[tuple[int, int]]) -> tuple[int, int]:
    for report, (before, after) in enumerate(marks):
        if index < after:
            return report, ASIDE if index < before else REPORT
    return len(marks), ASIDE


def _merged(ours: list[_Found], theirs: list[tuple[Any, dict[str, Any]]]) -> list[dict[str, Any]]:
    """In the order in which a direct run emits them; what a reporter in both places emits is told once."""
    if not all(
        _is_place(place) for place, _ in theirs
    ):  # of an older runner, or of a session without a common list
        return [arguments for _, arguments in [*ours, *theirs]]
    placed: list[_Found] = [((place[0], place[1]), arguments) for place, arguments in theirs]
    twice = [_what(found) for found in placed if found[0][1] != TEST]
    for found in ours:
        if _what(found) in twice:
            twice.remove(_what(found))
        else:
            placed.append(found)
    return [arguments for _, arguments in sorted(placed, key=lambda found: found[0])]


def _is_place(place: Any) -> bool:
    return isinstance(place, list) and len(place) == 2 and all(type(number) is int for number in place)


def _what(found: _Found) -> tuple[Any, ...]:
    place, arguments = found
    message = arguments["warning_message"]
    return place, message.category.__name__, str(message.message), PurePath(message.filename).name
