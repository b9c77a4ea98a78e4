"""When during a test each of its warnings was emitted: before which report, and by the test or by who heard of it.

pytest tells of warnings when the test is over. A reporter of the developer's that warns while it hears of a report does
that elsewhere, and in a direct run both would be in one list. Standard library and pytest only.
"""

from __future__ import annotations

import functools
import re
import warnings
from bisect import bisect_right
from typing import Any, Callable

import pytest

#: Second number of a place: emitted by plugins that heard of a start, an error or an end; by the test; by plugins that
#: heard of a report. The first number says how many reports of the test there were before.
ASIDE, TEST, REPORT = 0, 1, 2


def caught() -> Any:
    """The list that `warnings.catch_warnings` fills just now, which is private to it; None: there is none."""
    found = getattr(getattr(warnings, "_showwarnmsg_impl", None), "__self__", None)
    if type(found) is list:
        return found
    get_context = getattr(
        warnings, "_get_context", None
    )  # Python 3.14, where threads have warnings of their own
    log = getattr(get_context(), "log", None) if get_context is not None else None
    return log if type(log) is list else None


def leave_to_others(config: Any, reporters: list[str]) -> None:
    """Where nobody catches warnings, those of reporters that are also with the developer are shown by these only."""
    is_distributed = bool(getattr(config.option, "tx", None))
    if is_distributed or not config.pluginmanager.hasplugin("warnings"):
        for name in reporters:
            warnings.filterwarnings("ignore", module=re.escape(name) + r"(\.|\Z)")


class Changes:
    """Counts how often the filters of warnings change: after that the same text from the same line is a warning again.

    Only there where a reporter of the developer's may warn, which does that elsewhere.
    """

    def __init__(self) -> None:
        self.count = 0
        for name in ("_filters_mutated", "_filters_mutated_lock_held"):  # until Python 3.13; since 3.14
            original = getattr(warnings, name, None)
            if original is not None:
                setattr(warnings, name, functools.partial(self._changed, original))

    def _changed(self, original: Callable[[], None]) -> None:
        self.count += 1
        original()


class Warned:
    """Follows the tests of one session that run one after the other in this process."""

    def __init__(self) -> None:
        self._log: Any = None
        #: How many warnings there were at each report.
        self._marks: list[int] = []
        #: Index of a warning → its place, of those that the test did not emit.
        self._told: dict[int, list[int]] = {}
        self._next = 0
        self._before = (0, 0)
        #: Of the filters, if anybody wants to know; how many there were at the last report.
        self.changes: Changes | None = None
        self._seen = 0

    def begin(self) -> None:
        """A test begins, inside of what catches its warnings."""
        self._log, self._marks, self._told, self._next = caught(), [], {}, 0
        self._have_changed()

    def reported(self) -> bool:
        """One of its reports was told. Whether the filters have changed since the one before."""
        if self._log is not None:
            self._marks.append(len(self._log))
        return self.changes is not None and self._have_changed()

    def _have_changed(self) -> bool:
        before, self._seen = self._seen, self.changes.count if self.changes is not None else 0
        return before != self._seen

    def place(self, message: Any) -> list[int] | None:
        """Of the next warning of the test that is over; None: not known."""
        log = self._log or ()
        for index in range(self._next, len(log)):
            if log[index] is message:
                self._next = index + 1
                return self._told.get(index) or [bisect_right(self._marks, index), TEST]
        return None

    def before(self) -> None:
        """Plugins are going to hear of something."""
        self._before = len(self._log or ()), len(self._marks)

    def after(self, kind: int) -> None:
        """They have heard of it."""
        start, reports = self._before
        for index in range(start, len(self._log or ())):
            self._told[index] = [reports, kind]


class Before:
    """A plugin that is called before others that hear of something, and `After` after them.

    Only there where others hear of reports, because it takes time for each phase of each test. Wrappers would be seen
    in the traceback of a plugin that fails.
    """

    def __init__(self, warned: Warned) -> None:
        self._warned = warned

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        """See `Warned.before`; the other hooks likewise."""
        self._warned.before()

    pytest_runtest_logreport = pytest_exception_interact = pytest_runtest_logfinish = pytest_runtest_logstart


class After:
    """See `Before`."""

    def __init__(self, warned: Warned) -> None:
        self._warned = warned

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self) -> None:
        """See `Warned.after`."""
        self._warned.after(REPORT)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logstart(self) -> None:
        """See `Warned.after`; the other hooks likewise."""
        self._warned.after(ASIDE)

    pytest_exception_interact = pytest_runtest_logfinish = pytest_runtest_logstart
