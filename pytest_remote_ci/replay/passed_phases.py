"""Fast path for reports of phases that passed without output, which are most reports.

The results equal those of `replay.decode`. The counterpart in the job is `pytest_remote_ci.job.encode`.
"""

from __future__ import annotations

from typing import Any

import pytest

from pytest_remote_ci.job.pytest_internals import PYTEST, all_are_of
from pytest_remote_ci.replay.paths import PathMapper
from pytest_remote_ci.replay.pytest_internals import ID_OF_REPORT, OURS
from pytest_remote_ci.wire import records as wire

#: Phase → the status that pytest itself gives it.
_STATUSES = {"setup": ("", "", ""), "call": ("passed", ".", "PASSED"), "teardown": ("", "", "")}

#: Limit for the number of cached keyword names.
_MOST_WORDS = 1000


class Passes:
    """Makes the reports of one session."""

    def __init__(
        self,
        config: pytest.Config,
        places: PathMapper,
        before: dict[str, dict[str, Any]],
        *,
        wants_streams: bool,
    ) -> None:
        """`before`: node id → fields of earlier phases; `wants_streams`: pytest-json-report is active locally."""
        self._places = places
        self._before = before
        self._wants_streams = wants_streams
        self._asked = config.hook.pytest_report_teststatus
        #: The number of status hooks, and whether all are pytest's or ours.
        self._count, self._is_alone = 0, False
        #: Recently seen names, shared between tests.
        self._words: dict[str, str] = {}
        #: The newest report, and its status if only pytest decides it.
        self._newest: pytest.TestReport | None = None
        self._status: tuple[str, str, str] | None = None

    def report(
        self, record: wire.Passed, location: wire.Location | None, item: pytest.Item | None = None
    ) -> pytest.TestReport:
        """Return the report; `location`: the local one at the test's beginning; `item`: the test, if it is known."""
        nodeid = record.id
        when: Any = record.when  # one of pytest's, or a plugin's
        known = self._before.get(nodeid)
        if known is None:
            known = self._before[nodeid] = {"location": location, "keywords": {}}
            if item is not None:  # its id object lives to the end anyway
                known["_id"] = getattr(item, "id", item.nodeid)
        place = record.location or known.get("location") or location
        # A complete report leaves the location as it was sent, as a list.
        is_local = record.location is None and isinstance(place, tuple)
        known["location"] = place if is_local else self._places.location(place)
        if record.keywords is not None:
            known["keywords"] = self._keywords(record.keywords, item)
        known["sections"], known["user_properties"] = [], []
        fields: dict[str, Any] = {}
        if record.duration is not None:
            fields["duration"] = record.duration
        if record.start is not None:
            fields["start"] = record.start
        if record.stop is not None:
            fields["stop"] = record.stop
        if self._wants_streams:
            fields["_json_report_extra"] = {when: {}}
        # pytest 9.2 and newer parse a node id: do it once for all phases.
        report = pytest.TestReport(
            known.get("_id", nodeid),
            known["location"],
            known.get("keywords", {}),
            "passed",
            None,
            when,
            **fields,
        )
        known["_id"] = getattr(report, ID_OF_REPORT, nodeid)
        self._newest, self._status = report, _STATUSES[when] if self._is_only_implementation() else None
        return report

    def _keywords(self, words: list[str], item: pytest.Item | None) -> dict[str, int]:
        """Share the names that tests have in common."""
        if len(self._words) > _MOST_WORDS:
            self._words.clear()
        if item is not None:
            self._words[item.name] = item.name
        return {self._places.name(self._words.setdefault(word, word)): 1 for word in words}

    def status(self, report: object) -> tuple[str, str, str] | None:
        """Return the status of the newest report, if this is it and only pytest decides its status."""
        return self._status if report is self._newest else None

    def _is_only_implementation(self) -> bool:
        count = len(self._asked.get_hookimpls())
        if count != self._count:
            self._count, self._is_alone = count, all_are_of(self._asked, PYTEST, OURS)
        return self._is_alone
