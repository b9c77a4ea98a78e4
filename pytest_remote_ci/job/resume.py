"""Resume a session after its pytest died, with the tests that never began; clients see one session.

The new collection is compared with the first one. Only tests that never began run, in the order of the first
collection; fixtures of every scope are set up again. The beginning is not recorded, because clients already have it.
Standard library and pytest only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generator

import pytest

from ..wire import records as wire

if TYPE_CHECKING:
    from .crash import SessionState
    from .record_file import Records

#: Records that are written even before the first test: the session ends or cannot be recorded.
_ALWAYS = (
    wire.Unavailable,
    wire.Interrupt,
    wire.InternalError,
    wire.TestsOver,
    wire.Summary,
    wire.End,
    wire.JunitProperties,
    wire.Note,
    wire.CollectingFile,
)


class ResumedRecords:
    """A wrapper of `Records` that drops records of things already recorded."""

    def __init__(self, records: Records, earlier: SessionState) -> None:
        self._records = records
        self._earlier = earlier
        self._has_begun = False

    def __getattr__(self, name: str) -> object:
        """Delegate to the wrapped `Records`."""
        return getattr(self._records, name)

    def add(self, record: wire.Record) -> None:
        """Append one record, unless the earlier pytest recorded the same."""
        self._has_begun = self._has_begun or isinstance(record, wire.Started)
        if self._has_begun or isinstance(record, _ALWAYS) or self._is_new_error(record):
            self._records.add(record)

    def _is_new_error(self, record: wire.Record) -> bool:
        if not isinstance(record, wire.CollectReport) or record.outcome != "failed":
            return False
        return record.nodeid not in self._earlier.broken


class OnlyUnstarted:
    """A pytest plugin that selects the tests that never began, and counts the failures before them."""

    def __init__(self, records: ResumedRecords, earlier: SessionState) -> None:
        self._add = records.add
        self._earlier = earlier
        self._session: pytest.Session | None = None

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        """Select after all other plugins, which have selected and sorted as they did the first time."""
        yield
        self._session = session
        found: dict[str, pytest.Item] = {}
        for item in items:
            found.setdefault(item.nodeid, item)
        rest = self._earlier.rest
        missing = [nodeid for nodeid in rest if nodeid not in found]
        more = [nodeid for nodeid in found if nodeid not in self._earlier.collected]
        if missing or more:
            self._add(wire.Note(text=_difference(missing, more)))
        items[:] = [found[nodeid] for nodeid in rest if nodeid in found]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        """Add earlier failures at the first test: exit status and ``--maxfail`` apply to the whole session."""
        if self._session is not None:
            # A death that no test was blamed for counts as a failure, too.
            self._session.testsfailed += max(1, self._earlier.failures)
            self._session = None


def _difference(missing: list[str], more: list[str]) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} test(s) were not collected again and did not run, such as {missing[0]}")
    if more:
        parts.append(f"{len(more)} new one(s) were left out, such as {more[0]}")
    return "after the restart of pytest " + "; ".join(parts)
