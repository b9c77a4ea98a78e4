"""Rebuild recorded reports, warnings and exceptions as objects of the local pytest, for any remote version.

What cannot be rebuilt becomes text: no report is lost, and no class is imported because a record names it.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import copy
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypedDict

import pytest

from pytest_remote_ci.artifacts import report_kinds
from pytest_remote_ci.job.pytest_internals import PYTEST, all_are_of
from pytest_remote_ci.replay.passed_phases import Passes
from pytest_remote_ci.replay.paths import PathMapper
from pytest_remote_ci.replay.pytest_internals import TerminalRepr, report_from_json, terminal_file
from pytest_remote_ci.wire import records as wire

if TYPE_CHECKING:
    from pytest_remote_ci.replay.pytest_internals import TerminalWriter

    #: A report of a test or of a collector.
    AnyReport = pytest.TestReport | pytest.CollectReport

#: File name extensions that pytest-html may write.
_ENDS = frozenset(
    {"css", "csv", "gif", "html", "jpeg", "jpg", "json", "log", "mp4", "pdf", "png", "svg", "txt", "webm"}
)
#: Fields of a report that are sent once per test.
_CONSTANT = ("location", "keywords", "user_properties", "sections")
#: Fields that belong to pytest. Others are a plugin's and can hold anything. longrepr is mapped separately.
_PYTESTS_OWN = {
    *_CONSTANT,
    "nodeid",
    "outcome",
    "longrepr",
    "when",
    "duration",
    "start",
    "stop",
    "result",
    "$report_type",
}


class RemoteText(TerminalRepr):
    """An error representation that was sent as text, in colour if the job used colour."""

    def __init__(self, text: str, markup: str | None = None) -> None:
        self.longrepr = text
        self._markup = markup

    def __str__(self) -> str:
        return self.longrepr

    def toterminal(self, tw: TerminalWriter) -> None:
        """Write the text, in colour if the terminal has it."""
        file = terminal_file(tw)
        if tw.hasmarkup and self._markup and file is not None:
            file.write(self._markup)
        else:
            tw.line(self.longrepr)


class RecordedWarning(TypedDict):
    """Arguments for `pytest_warning_recorded`."""

    warning_message: warnings.WarningMessage
    when: str
    nodeid: str
    location: wire.Location | None


class Reports:
    """Decodes the reports of one session; remembers the previous phase of each running test."""

    def __init__(self, config: pytest.Config, places: PathMapper, note: Callable[[str], None]) -> None:
        """`note` adds a line to the end of the session."""
        self._config = config
        self._places = places
        self._note = note
        self._before: dict[str, dict[str, Any]] = {}
        self._categories: dict[tuple[str, str], type[Warning]] = {}
        #: Whether pytest-json-report is active locally; if the job has it, too, its reports carry extra data.
        self._wants_streams = bool(getattr(config.option, "json_report", False))
        #: Node id and phase → pieces of log records in JSON; their report follows.
        self._logs: dict[tuple[str, str], list[str]] = {}
        #: Decodes the phases that only passed.
        self.passes = Passes(config, places, self._before, wants_streams=self._wants_streams)
        #: id(report) → the report, referenced so that the id stays valid, and its status.
        self._statuses: dict[int, tuple[AnyReport, wire.Status]] = {}
        #: Version of pytest in the job.
        self.remote_pytest = ""
        #: Whether only pytest makes reports locally: ordinary ones can skip the hook then.
        self._only_pytest_decodes = all_are_of(config.hook.pytest_report_from_serializable, PYTEST)
        #: xdist's workers in the job: id → describing line, and id → stand-in object.
        self.workers: dict[str, str] = {}
        self._nodes: dict[str, WorkerController] = {}

    def forget(self, nodeid: str) -> None:
        """Drop the state of a test that is over."""
        self._before.pop(nodeid, None)

    def status(self, report: object) -> wire.Status | None:
        """Return the status that remote plugins gave a report; None if it is the ordinary one."""
        found = self._statuses.get(id(report))
        return self.passes.status(report) if found is None else found[1]

    def report(self, record: wire.Report | wire.CollectReport) -> AnyReport:
        """Return the report of a test's phase or of a collector."""
        data = dict(record.d)
        if isinstance(record, wire.Report):
            _restore_values(data, record.values or {})
            self._complete(data, record.shared or 0)
            if self._wants_streams:
                self._add_extra(data, self._logs_of(record))
        _with_tuples(data, self._places)
        _with_plain_extras(data)
        original = copy.copy(data)
        report: AnyReport | None = None
        try:
            if self._only_pytest_decodes and data.get("$report_type") == "TestReport":
                report = report_from_json(pytest.TestReport, data)
            else:
                report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
        except Exception as error:  # another version of pytest or of a plugin
            self._note(f"a report of {data['nodeid']} is shown as text ({type(error).__name__}: {error})")
        if report is None:
            report = _plain_report(original, isinstance(record, wire.Report), self.remote_pytest)
        if record.flattened and isinstance(report.longrepr, str):
            markup = record.markup
            report.longrepr = RemoteText(report.longrepr, self._places.text(markup) if markup else None)
        _restore_subtest(report, _subtest_parameters(original, self.remote_pytest))
        if isinstance(record, wire.Report) and record.status is not None:
            self._statuses[id(report)] = (report, record.status)
        if record.worker:
            report.__dict__["node"] = self._worker(record.worker)
        return report

    @staticmethod
    def _add_extra(data: wire.ReportData, logs: object) -> None:
        """Add what pytest-json-report adds to a phase, if the job lacked it; log records are sent separately."""
        extra = data.setdefault("_json_report_extra", {data["when"]: _streams(data)})
        phase = extra.get(data["when"]) if isinstance(extra, dict) else None
        if logs and isinstance(phase, dict):
            phase["log"] = logs

    def store_logs(self, piece: wire.LogPiece) -> None:
        """Store a piece of log records too long for a single record."""
        if self._wants_streams:
            self._logs.setdefault((piece.id, piece.when), []).append(piece.text)

    def _logs_of(self, record: wire.Report) -> object:
        pieces = self._logs.pop((record.nodeid, record.when), None)
        if pieces is None:
            return record.logs
        with contextlib.suppress(ValueError):  # tests can write records, too
            return json.loads("".join(pieces))
        return None

    def _complete(self, data: wire.ReportData, shared: int) -> None:
        nodeid = str(data["nodeid"])
        before = self._before.get(nodeid)
        keywords = data.get("keywords")
        if isinstance(keywords, dict):
            data["keywords"] = {self._places.name(word): 1 for word in keywords}
        if before is not None:
            data["sections"] = before["sections"][:shared] + data.get("sections", [])
            for name in _CONSTANT:
                if name not in data and name in before:
                    data[name] = before[name]
        data.setdefault("sections", [])
        self._before[nodeid] = {name: data[name] for name in _CONSTANT if name in data}

    def _worker(self, name: str) -> WorkerController:
        if name not in self._nodes:
            self._nodes[name] = WorkerController(name, self.workers.get(name, f"[{name}]"))
        return self._nodes[name]

    def warning(self, record: wire.RecordedWarning) -> RecordedWarning:
        """Return the arguments for `pytest_warning_recorded`."""
        category = self._category(record)
        message = warnings.WarningMessage(
            message=category(record.message),
            category=category,
            filename=self._places.path(record.file),
            lineno=record.lineno,
            line=record.line,
        )
        return {
            "warning_message": message,
            "when": record.when,
            "nodeid": record.id,
            "location": self._places.location(record.location) if record.location else None,
        }

    def _category(self, record: wire.RecordedWarning) -> type[Warning]:
        key = (record.module, record.name)
        if key not in self._categories:
            base: type[Warning] = Warning
            for name in record.bases:
                found = getattr(builtins, name, None)
                if isinstance(found, type) and issubclass(found, Warning):
                    base = found
                    break
            same = base.__name__ == key[1]
            self._categories[key] = base if same else type(key[1], (base,), {"__module__": key[0]})
        return self._categories[key]


def failed_reports(
    nodeid: str, location: wire.Location, text: str, phase: str | None, sections: list[tuple[str, str]]
) -> list[pytest.TestReport]:
    """Return the final reports of a test that ended without them; `phase` is the last phase it reported."""
    now = "teardown" if phase == "call" else "call"
    # pytest declares the phase as a literal, `now` is a str.
    failed = pytest.TestReport(nodeid, location, {}, "failed", text, now, sections)  # type: ignore[arg-type]
    if now == "teardown":
        return [failed]
    return [failed, pytest.TestReport(nodeid, location, {}, "passed", None, "teardown")]


class WorkerController:
    """Stand-in for an xdist worker in the job, as reports refer to it."""

    def __init__(self, name: str, line: str) -> None:
        self.gateway = SimpleNamespace(id=name, spec=name)
        self.workerinfo: dict[str, str] = {}
        self._workerinfocache = line
        self.workerinput = {"workerid": name}

    def __repr__(self) -> str:
        return f"<WorkerController {self.gateway.id}>"


class RemoteValue:
    """A property value of which only the text was sent. Like the original, it is not JSON-serializable."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def value_of(kind: str, text: str) -> object:
    """Rebuild a value sent as a Python literal (`kind` "literal"), or wrap its text in `RemoteValue`."""
    if kind == "literal":
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return ast.literal_eval(text)
    return RemoteValue(text)


class _RebuiltException(pytest.ExceptionInfo[Exception]):  # type: ignore[misc] # final for type checkers only
    text = ""

    def exconly(self, tryshort: bool = False) -> str:
        """Return the text as it was in the job."""
        return self.text


def exception_call(record: wire.RaisedException, report: object, places: PathMapper) -> SimpleNamespace:
    """Return the `call` argument for `pytest_exception_interact`."""
    name, text = record.name, places.text(record.text)
    kind = type(name, (Exception,), {"__module__": "builtins"})
    # pytest declares a traceback, but there is none.
    info: Any = _RebuiltException.from_exc_info((kind, kind(text.partition(": ")[2]), None))  # type: ignore[arg-type]
    info.text = text
    times = {key: getattr(report, key, 0) for key in ("start", "stop", "duration")}
    return SimpleNamespace(excinfo=info, when=record.when, **times)


def internal_error(record: wire.InternalError, places: PathMapper) -> dict[str, object]:
    """Return the arguments for `pytest_internalerror`."""
    name, _, text = record.exception.partition(": ")
    kind = type(name.rpartition(".")[2] or "Exception", (Exception,), {})
    try:
        raise kind(text)
    except Exception:
        info = pytest.ExceptionInfo.from_current()
    return {"excrepr": RemoteText(places.text(record.text)), "excinfo": info}


def _with_tuples(data: wire.ReportData, places: PathMapper) -> None:
    """Map paths, and restore the tuples that reporters expect and JSON does not have."""
    for name in data.keys() - _PYTESTS_OWN:
        data[name] = places.all(data[name])
    longrepr = data.get("longrepr")
    if isinstance(longrepr, (list, tuple)) and len(longrepr) == 3:  # where and why a test was skipped
        data["longrepr"] = (places.path(str(longrepr[0])), longrepr[1], places.all(longrepr[2]))
    else:
        data["longrepr"] = places.all(longrepr)
    location = data.get("location")
    if isinstance(location, (list, tuple)):
        data["location"] = places.location(location)
    if "sections" in data:
        data["sections"] = [(title, text) for title, text in _pairs(data["sections"])]
    if "user_properties" in data:
        data["user_properties"] = list(_pairs(data["user_properties"]))


def _with_plain_extras(data: wire.ReportData) -> None:
    """Restrict the extensions of files that pytest-html writes from extras to known ones.

    The extension is part of the path: a crafted one could give the file any name, even one that the next pytest
    executes.
    """
    for key in ("extras", "extra"):
        extras = data.get(key)
        if not isinstance(extras, list):
            continue
        data[key] = copies = [dict(extra) for extra in extras if isinstance(extra, dict)]
        for extra in copies:
            end, content = extra.get("extension"), extra.get("content")
            if end is None:
                continue
            if end == "txt" and report_kinds.is_doctest(str(content)):
                extra["extension"] = "log"
            elif not isinstance(end, str) or end not in _ENDS:
                extra["extension"] = "bin"


def _streams(data: wire.ReportData) -> dict[str, str]:
    """Return the captured output of a phase by stream name."""
    names = {f"Captured {name} {data['when']}": name for name in ("stdout", "stderr")}
    return {names[title]: str(text) for title, text in _pairs(data.get("sections", [])) if title in names}


def _pairs(value: object) -> Iterator[tuple[str, object]]:
    """Yield the pairs of a list. Raises TypeError, ValueError."""
    if not isinstance(value, (list, tuple)):
        raise TypeError("not a list")
    for pair in value:
        name, item = pair
        yield name, item


def _restore_values(data: wire.ReportData, values: Mapping[int, wire.Value]) -> None:
    properties = data.get("user_properties")
    for place, (kind, text) in values.items():
        if isinstance(properties, list) and place < len(properties):
            properties[place] = (properties[place][0], value_of(kind, text))


class _Shown(str):
    """A text that is its own repr."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _subtest_parameters(data: wire.ReportData, remote_pytest: str) -> dict[str, str]:
    """Return a subtest's parameters as texts: pytest 9.1 and newer send texts, older versions send values."""
    context = data.get("_subtest.context")
    found = context.get("kwargs") if isinstance(context, dict) else None
    if not found:
        return {}
    are_texts = _version(remote_pytest) >= (9, 1)
    return {
        name: _Shown(value if are_texts and isinstance(value, str) else repr(value))
        for name, value in found.items()
    }


def _version(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(".")[:2])
    except ValueError:
        return (0, 0)


def _restore_subtest(report: AnyReport, parameters: dict[str, str]) -> None:
    """Set the parameters again: some versions of pytest convert the texts once more."""
    context = getattr(report, "context", None)
    if context is not None and parameters:
        with contextlib.suppress(AttributeError, TypeError):
            object.__setattr__(context, "kwargs", parameters)


def _plain_report(data: wire.ReportData, is_test: bool, remote_pytest: str) -> AnyReport:
    """Return pytest's own kind of report for one of a plugin that is not installed locally, such as for subtests."""
    kind: Any = pytest.TestReport if is_test else pytest.CollectReport
    fields: dict[str, Any] = {name: value for name, value in data.items() if not name.startswith(("$", "_"))}
    if not is_test:
        fields.setdefault("result", None)
    try:
        report: AnyReport = report_from_json(kind, copy.deepcopy(fields))
    except Exception:  # a private method, and data of another version
        if isinstance(fields.get("longrepr"), dict):
            fields["longrepr"] = _traceback_text(fields["longrepr"])
        report = kind(**fields)
    context = data.get("_subtest.context")
    if isinstance(report, pytest.TestReport) and isinstance(context, dict) and report.location:
        words = f"[{context['msg']}]" if context.get("msg") else ""
        parameters = _subtest_parameters(data, remote_pytest)
        if parameters:
            words += " ({})".format(", ".join(f"{name}={value}" for name, value in parameters.items()))
        report.location = (report.location[0], report.location[1], f"{report.location[2]} {words}")
    return report


def _traceback_text(longrepr: dict[str, Any]) -> str:
    lines: list[str] = []
    for traceback, _, words in longrepr.get("chain") or [(longrepr["reprtraceback"], None, None)]:
        for entry in traceback["reprentries"]:
            lines += entry["data"].get("lines", [])
            place = entry["data"].get("reprfileloc")
            if place:
                lines += ["", f"{place['path']}:{place['lineno']}: {place['message']}"]
        lines += [words] if words else []
    return "\n".join(lines)
