"""A pytest that is started again for the tests which one that died has not begun: one session to whoever looks on.

What it collects is held against what was collected first. Only tests that were never begun run, in the order of the
first collection; fixtures of every scope are made anew. Nothing of its beginning is recorded, because that has been
shown. Standard library and pytest only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .crash import Aftermath
    from .record_file import Records

#: Records that count before the first test, too: the session ends or cannot be.
_ALWAYS = frozenset(
    {"unavailable", "interrupt", "internal_error", "tests_over", "summary", "end", "junit", "note", "collecting_file"}
)  # fmt: skip


class Continued:
    """Stands before `Records`, and is one in all else: keeps what was said already from being said twice."""

    def __init__(self, records: Records, earlier: Aftermath) -> None:
        self._records = records
        self._earlier = earlier
        self._has_begun = False

    def __getattr__(self, name: str) -> Any:
        """What is not added here is none of our business."""
        return getattr(self._records, name)

    def add(self, kind: str, **fields: Any) -> None:
        """Append one record, if it is news."""
        self._has_begun = self._has_begun or kind == "started"
        if self._has_begun or kind in _ALWAYS or self._is_new_error(kind, fields):
            self._records.add(kind, **fields)

    def _is_new_error(self, kind: str, fields: dict[str, Any]) -> bool:
        data = fields.get("d")
        if kind != "collect_report" or not isinstance(data, dict) or data.get("outcome") != "failed":
            return False
        return data.get("nodeid") not in self._earlier.broken


class Rest:
    """A pytest plugin: leaves only the tests that were never begun, and counts the failures before them."""

    def __init__(self, records: Continued, earlier: Aftermath) -> None:
        self._add = records.add
        self._earlier = earlier
        self._session: Any = None

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, session: Any, items: list[Any]) -> Any:
        """After all others, which have selected and sorted as they did the first time."""
        yield
        self._session = session
        found: dict[str, Any] = {}
        for item in items:
            found.setdefault(item.nodeid, item)
        rest = self._earlier.rest
        missing = [nodeid for nodeid in rest if nodeid not in found]
        more = [nodeid for nodeid in found if nodeid not in self._earlier.collected]
        if missing or more:
            self._add("note", text=_difference(missing, more))
        items[:] = [found[nodeid] for nodeid in rest if nodeid in found]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        """From the first test on: the exit status and ``--maxfail`` are those of the whole session."""
        if self._session is not None:
            # A death that no test was found guilty of is a failure, too.
            self._session.testsfailed += max(1, self._earlier.failures)
            self._session = None


def _difference(missing: list[str], more: list[str]) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} test(s) were not collected again and did not run, such as {missing[0]}")
    if more:
        parts.append(f"{len(more)} new one(s) were left out, such as {more[0]}")
    return "after the restart of pytest " + "; ".join(parts)
