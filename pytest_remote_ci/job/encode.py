"""Encode pytest's reports as records, each phase without the fields that earlier phases of the test contained.

The counterpart on the developer's machine is `pytest_remote_ci.replay.decode`. Standard library and pytest only.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import json
from typing import TYPE_CHECKING, Any, Sequence

import pytest

from ..wire.records import (
    CollectReport,
    Location,
    LogPiece,
    Passed,
    Report,
    ReportData,
    Status,
    Value,
    WorkerLine,
)
from .logs import PIECE, detach
from .pytest_internals import PYTEST, all_are_of, new_terminal_writer, report_to_json, worker_line
from .quiet import Quiet
from .record_file import TEXT_LIMIT, plain

if TYPE_CHECKING:
    from .logs import Logs
    from .nodes import Found
    from .pytest_internals import WorkerController
    from .record_file import Records

#: Statuses that every pytest derives by itself.
_ORDINARY = {
    ("", "", ""),
    ("passed", ".", "PASSED"),
    ("failed", "F", "FAILED"),
    ("error", "E", "ERROR"),
    ("skipped", "s", "SKIPPED"),
    ("xfailed", "x", "XFAIL"),
    ("xpassed", "X", "XPASS"),
}
#: Ordinary statuses of phases that passed.
_PASSED = {("", "", ""), ("passed", ".", "PASSED")}
#: Fields that are the same in all phases of a test and are sent once.
_CONSTANT = ("location", "keywords", "user_properties")
#: All fields that pytest itself gives a report; plugins add more.
_PYTESTS_OWN = {
    "nodeid",
    "location",
    "keywords",
    "outcome",
    "longrepr",
    "when",
    "user_properties",
    "sections",
    "duration",
    "start",
    "stop",
    "$report_type",
    "item_index",
    "worker_id",
    "testrun_uid",
}
#: Longest literal of a property value, in characters; of a longer one the text is sent.
_LONGEST_LITERAL = 10_000


class Reports:
    """Records the reports of one session."""

    def __init__(self, records: Records, config: pytest.Config, logs: Logs | None = None) -> None:
        """`logs`: the collected log records, if they are wanted."""
        self._records = records
        self._logs = logs
        self._add, self._hold, self._cut = records.add, records.hold, records.cut
        self._config = config
        #: The report for which the status was last requested, and the answer.
        self.status: tuple[object, Status | None] = (None, None)
        self._before: dict[str, ReportData] = {}
        #: Decides whether a result can wait for the next test.
        self.quiet = Quiet(config)
        #: The report that was recorded last.
        self.last: pytest.TestReport | pytest.CollectReport | None = None
        #: Node id → location, of the tests that have begun and not ended.
        self.running: dict[str, Location] = {}
        #: Whether plugins or conftests take part in statuses; then `status` has them.
        self.has_statuses = False
        self._workers: set[str] = set()
        #: Whether only pytest serializes reports; None: not checked yet, conftests are still being loaded.
        self._only_pytest_serialises: bool | None = None

    def forget(self, nodeid: str) -> None:
        """Drop the state of a test that is over."""
        self._before.pop(nodeid, None)
        self.running.pop(nodeid, None)

    def add(self, report: pytest.TestReport) -> None:
        """Record the report of a test's phase."""
        self.last = report
        if self._has_passed_as_most_do(report):
            self._passed(report)
            return
        data, worker = self._data_of(report)
        flattened, markup = self._flattened(report.longrepr, data)
        status = self._status_of(report)
        if status and _is_one_of(status, _ORDINARY):
            status = None
        logs = self._logs.pop(report.nodeid, report.when) if self._logs is not None else detach(data)
        small_logs = self._add_long_logs(report, logs)
        small, shared = self._difference(data)
        record = Report(
            d=small,
            flattened=flattened,
            markup=markup,
            worker=worker,
            status=status,
            unseen=self._records.is_captured or None,  # shown while captured: part of a test's output
            logs=small_logs,
            shared=shared or None,
            values=_values_of(small) or None,
        )
        (self._hold if self._is_silent(small) else self._add)(record)

    def add_collector(self, report: pytest.CollectReport, found: Found | None) -> None:
        """Record the report of a collector, with what it found."""
        self.last = report
        data, worker = self._data_of(report)
        data["result"] = None
        flattened, markup = self._flattened(report.longrepr, data)
        self._add(
            CollectReport(
                d=data,
                nodes=found.nodes if found is not None else None,
                items=found.items if found is not None else None,
                found=found.numbers if found is not None else None,
                flattened=flattened,
                markup=markup,
                worker=worker,
            )
        )

    def _data_of(self, report: pytest.TestReport | pytest.CollectReport) -> tuple[ReportData, str | None]:
        """Return the report's data, and the id of xdist's worker that made it."""
        node = report.__dict__.pop("node", None)  # xdist's controller of a worker
        try:
            data = self._serialized(report)
        finally:
            if node is not None:
                report.__dict__["node"] = node
        if data is None:
            data = {"nodeid": report.nodeid, "outcome": report.outcome, "longrepr": str(report.longrepr)}
        data["sections"] = [
            (str(name), self._cut(text) if isinstance(text, str) else str(text))
            for name, text in _list(data.get("sections"))
        ]
        return data, None if node is None else self._worker(node)

    def _has_passed_as_most_do(self, report: pytest.TestReport) -> bool:
        """Whether the report contains nothing except that the phase passed, as for most phases of most tests."""
        fields = report.__dict__
        return (
            fields.get("outcome") == "passed"
            and type(report) is pytest.TestReport
            and fields.keys() == _plain_parts()
            and not (fields["sections"] or fields["user_properties"] or fields["longrepr"])
            and self._logs is None
            and self._pytest_serialises()
            and self._has_ordinary_status(report)
            and not self._records.is_captured
        )

    def _has_ordinary_status(self, report: object) -> bool:
        if not self.has_statuses:
            return True
        asked, status = self.status
        return asked is report and bool(status) and _is_one_of(status, _PASSED)

    def _passed(self, report: pytest.TestReport) -> None:
        """Record a plain pass, without fields already sent by earlier phases or the start."""
        fields, nodeid = report.__dict__, report.nodeid
        self.status = (None, None)
        before = self._before.get(nodeid) or {"location": self.running.get(nodeid)}
        record = Passed(
            id=nodeid,
            when=report.when,
            duration=fields.get("duration"),
            start=fields.get("start"),
            stop=fields.get("stop"),
            location=report.location if before.get("location") != report.location else None,
            keywords=list(report.keywords) if before.get("keywords") != report.keywords else None,
        )
        self._before[nodeid] = {
            "location": report.location,
            "keywords": report.keywords,
            "user_properties": [],
            "sections": [],
        }
        is_held = report.when != "call" or self.quiet.follows(nodeid)
        (self._hold if is_held else self._add)(record)

    def _serialized(self, report: pytest.TestReport | pytest.CollectReport) -> ReportData | None:
        """Serialize a report; skip the hook for ordinary reports, three per test, if only pytest implements it."""
        if type(report) is pytest.TestReport and self._pytest_serialises():
            return {**report_to_json(report), "$report_type": "TestReport"}
        data: ReportData | None = self._config.hook.pytest_report_to_serializable(
            config=self._config, report=report
        )
        return data

    def _pytest_serialises(self) -> bool:
        """Whether only pytest serializes reports."""
        if self._only_pytest_serialises is None:
            self._only_pytest_serialises = all_are_of(self._config.hook.pytest_report_to_serializable, PYTEST)
        return self._only_pytest_serialises

    @staticmethod
    def _is_silent(data: ReportData) -> bool:
        """Whether nothing of the report is shown, and it cannot change until the next record."""
        return (
            data["outcome"] == "passed"
            and data["when"] != "call"
            and not data.get("sections")
            and not data.keys() - _PYTESTS_OWN
        )

    def _add_long_logs(self, report: pytest.TestReport, text: str) -> list[object] | None:
        """Return a phase's log records; if they are too long, or not strict JSON, add them in pieces instead."""
        if text and len(text) <= TEXT_LIMIT and "NaN" not in text and "Infinity" not in text:
            logs: list[object] = json.loads(text)
            return logs
        for start in range(0, len(text), PIECE):
            self._add(LogPiece(id=report.nodeid, when=str(report.when), text=text[start : start + PIECE]))
        return None

    def _flattened(self, longrepr: object, data: ReportData) -> tuple[str | None, str | None]:
        """Return the type of a representation that pytest turned into text, and the text with its colours."""
        if not isinstance(data.get("longrepr"), str) or isinstance(longrepr, str):
            return None, None
        if not hasattr(longrepr, "toterminal"):
            return None, None
        markup = None
        if getattr(self._config.option, "color", None) == "yes":
            with contextlib.suppress(Exception):
                text = io.StringIO()
                longrepr.toterminal(new_terminal_writer(text))
                markup = self._cut(text.getvalue())
        return type(longrepr).__name__, markup

    def _status_of(self, report: pytest.TestReport) -> Status | None:
        (asked, status), self.status = self.status, (None, None)
        if asked is report:
            return status
        found: Status | None = self._config.hook.pytest_report_teststatus(report=report, config=self._config)
        self.status = (None, None)
        return found

    def _difference(self, data: ReportData) -> tuple[ReportData, int]:
        """Return the report without what the previous phase already contained, and the number of sections of those."""
        nodeid = str(data["nodeid"])
        before, self._before[nodeid] = self._before.get(nodeid), data
        if before is None:
            return data, 0
        small = {
            key: value for key, value in data.items() if key not in _CONSTANT or before.get(key) != value
        }
        old, new = _list(before["sections"]), _list(data["sections"])
        shared = 0
        while shared < min(len(old), len(new)) and old[shared] == new[shared]:
            shared += 1
        if shared:
            small["sections"] = new[shared:]
        return small, shared

    def _worker(self, node: WorkerController) -> str:
        name = str(node.gateway.id)
        if name not in self._workers:
            self._workers.add(name)
            with contextlib.suppress(Exception):
                self._add(WorkerLine(id=name, line=worker_line(node)))
        return name


@functools.lru_cache(maxsize=None)
def _plain_parts() -> set[str]:
    """Return the names of a plain report's fields in this version of pytest."""
    some = pytest.TestReport("some", ("some.py", 0, "some"), {}, "passed", None, "call")
    return set(some.__dict__)


def _values_of(data: ReportData) -> dict[int, Value]:
    """Return the property values that JSON would change, as texts, by their index."""
    properties = enumerate(_list(data.get("user_properties")))
    return {index: as_text(value) for index, (_, value) in properties if not _is_plain(value)}


def _list(value: object) -> Sequence[Any]:
    """Return a list of pairs that pytest made; none if it is missing."""
    return value if isinstance(value, (list, tuple)) else ()


def _is_one_of(status: Status | None, known: set[tuple[str, str, str]]) -> bool:
    return status is not None and isinstance(status[2], str) and tuple(status) in known


def _is_plain(value: object) -> bool:
    if type(value) is list:
        return all(_is_plain(item) for item in value)
    if type(value) is dict:
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    return value is None or type(value) in (str, int, float, bool)


def as_text(value: object) -> Value:
    """Return "literal" and its Python literal or, for a value without one, "text" and its text."""
    with contextlib.suppress(Exception):
        notation = repr(value)
        if len(notation) <= _LONGEST_LITERAL:
            again = ast.literal_eval(notation)
            if type(again) is type(value) and again == value:
                return "literal", notation
    try:
        return "text", str(value)
    except Exception:  # a hostile __str__
        return "text", str(plain(value))
