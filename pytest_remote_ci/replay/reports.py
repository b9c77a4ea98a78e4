"""Reports, warnings and exceptions as objects of the local pytest, made from what another version of it recorded.

Whatever cannot be rebuilt becomes text: a report is never lost, and no class is imported because a record names it.
"""

from __future__ import annotations

import builtins
import copy
import os
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest._code import ExceptionInfo
from _pytest._code.code import TerminalRepr

#: Parts of a report that travel once per test.
_CONSTANT = ("location", "keywords", "user_properties", "sections")


class RemoteText(TerminalRepr):
    """A representation of an error that travelled as text, and in colour where there was colour."""

    def __init__(self, text: str, markup: str | None = None) -> None:
        self.longrepr = text
        self._markup = markup

    def __str__(self) -> str:
        return self.longrepr

    def toterminal(self, tw: Any) -> None:
        """Write it."""
        if tw.hasmarkup and self._markup:
            tw._file.write(self._markup)
        else:
            tw.line(self.longrepr)


class Places:
    """The remote project's root in texts, replaced by the one here; and texts made safe for a terminal."""

    def __init__(self, here: str, clean: Callable[[str], str] | None = None) -> None:
        self._here = here
        self._there = here
        self._clean = clean

    def learn(self, root: str) -> None:
        """Where the project is over there."""
        self._there = root

    def text(self, text: str) -> str:
        """One text."""
        text = self.here(text)
        return text if self._clean is None else self._clean(text)

    def here(self, text: str) -> str:
        """One text, with the place replaced only."""
        if self._there != self._here and self._there in text:
            text = text.replace(self._there + "/", self._here + os.sep)
            text = text.replace(self._there, self._here) if text.endswith(self._there) else text
        return text

    def all(self, value: Any) -> Any:
        """Every text in lists and mappings."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, (list, tuple)):
            return [self.all(item) for item in value]
        if isinstance(value, dict):
            return {key: self.all(item) for key, item in value.items()}
        return value


class Reports:
    """Decodes the reports of one session; remembers each running test's previous phase."""

    def __init__(self, config: pytest.Config, places: Places, note: Callable[[str], None]) -> None:
        """`note` takes a line for the end of the session."""
        self._config = config
        self._places = places
        self._note = note
        self._before: dict[str, dict[str, Any]] = {}
        self._categories: dict[tuple[str, str], type[Warning]] = {}
        #: xdist's workers over there → line that describes them.
        self.workers: dict[str, str] = {}

    def forget(self, nodeid: str) -> None:
        """The test is over."""
        self._before.pop(nodeid, None)

    def report(self, event: dict[str, Any]) -> Any:
        """The report of a test or a collector."""
        data = dict(event["d"])
        is_test = event["t"] == "report"
        if is_test:
            self._complete(data, int(event.get("shared") or 0))
        _with_tuples(data, self._places)
        original = copy.copy(data)
        report: Any = None
        try:
            report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
        except Exception as error:  # other versions of pytest or plugins
            self._note(f"a report of {data['nodeid']} came as text ({type(error).__name__}: {error})")
        if report is None:
            report = _plain_report(original, is_test)
        if event.get("flattened") and isinstance(report.longrepr, str):
            markup = event.get("markup")
            report.longrepr = RemoteText(report.longrepr, self._places.text(markup) if markup else None)
        _restore_subtest(report, original)
        status = event.get("status")
        if status:
            word = tuple(status[2]) if isinstance(status[2], list) else status[2]
            report.remote_status = (status[0], status[1], word)
        if event.get("worker"):
            report.node = self._worker(str(event["worker"]))
        return report

    def _complete(self, data: dict[str, Any], shared: int) -> None:
        nodeid = data["nodeid"]
        before = self._before.get(nodeid)
        if before is not None:
            data["sections"] = before["sections"][:shared] + data.get("sections", [])
            for name in _CONSTANT:
                if name not in data and name in before:
                    data[name] = before[name]
        data.setdefault("sections", [])
        self._before[nodeid] = {name: data[name] for name in _CONSTANT if name in data}

    def _worker(self, name: str) -> Any:
        gateway = SimpleNamespace(id=name, spec=name)
        return SimpleNamespace(
            gateway=gateway,
            workerinfo={},
            _workerinfocache=self.workers.get(name, ""),
            workerinput={"workerid": name},
        )

    def warning(self, event: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `pytest_warning_recorded`."""
        category = self._category(event)
        message = warnings.WarningMessage(
            message=category(event["message"]), category=category, filename=self._places.text(event["file"]),
            lineno=event["lineno"], line=event["line"],
        )  # fmt: skip
        location = event["location"]
        if location:
            location = (self._places.text(location[0]), location[1], location[2])
        return {
            "warning_message": message, "when": event["when"], "nodeid": event["id"], "location": location or None,
        }  # fmt: skip

    def _category(self, event: dict[str, Any]) -> type[Warning]:
        key = (str(event["module"]), str(event["name"]))
        if key not in self._categories:
            base: type[Warning] = Warning
            for name in event["bases"]:
                found = getattr(builtins, str(name), None)
                if isinstance(found, type) and issubclass(found, Warning):
                    base = found
                    break
            same = base.__name__ == key[1]
            self._categories[key] = base if same else type(key[1], (base,), {"__module__": key[0]})
        return self._categories[key]


def failed_reports(nodeid: str, location: Any, text: str, phase: str | None) -> list[pytest.TestReport]:
    """The last reports of a test that could not report itself any more; `phase` was the last that it reported."""
    now = "teardown" if phase == "call" else "call"
    failed = pytest.TestReport(nodeid, tuple(location), {}, "failed", text, now)  # type: ignore[arg-type]
    if now == "teardown":
        return [failed]
    return [failed, pytest.TestReport(nodeid, tuple(location), {}, "passed", None, "teardown")]


def exception_call(event: dict[str, Any], report: Any) -> Any:
    """What `pytest_exception_interact` gets as `call`."""
    name, text = str(event["name"]), str(event["text"])
    kind = type(name, (Exception,), {"__module__": "builtins"})
    info: Any = ExceptionInfo.from_exc_info((kind, kind(text.partition(": ")[2]), None))  # type: ignore[arg-type]
    times = {key: getattr(report, key, 0) for key in ("start", "stop", "duration")}
    return SimpleNamespace(excinfo=info, when=event["when"], **times)


def _with_tuples(data: dict[str, Any], places: Places) -> None:
    """JSON has no tuples, and reporters look for them."""
    longrepr = places.all(data.get("longrepr"))
    data["longrepr"] = tuple(longrepr) if isinstance(longrepr, list) else longrepr
    if data.get("location") is not None:
        data["location"] = tuple(data["location"])
    for name in ("sections", "user_properties"):
        if name in data:
            data[name] = [tuple(item) for item in data[name]]


def _restore_subtest(report: Any, data: dict[str, Any]) -> None:
    """pytest 9.1 and newer make texts of the texts that a subtest's parameters became."""
    context, raw = getattr(report, "context", None), data.get("_subtest.context")
    if context is not None and isinstance(raw, dict) and "kwargs" in raw:
        try:
            object.__setattr__(context, "kwargs", raw["kwargs"])
        except (AttributeError, TypeError):
            return


def _plain_report(data: dict[str, Any], is_test: bool) -> Any:
    fields = {name: value for name, value in data.items() if not name.startswith(("$", "_"))}
    if isinstance(fields.get("longrepr"), dict):
        fields["longrepr"] = _traceback_text(fields["longrepr"])
    if not is_test:
        fields.setdefault("result", None)
        return pytest.CollectReport(**fields)
    report = pytest.TestReport(**fields)
    context = data.get("_subtest.context")
    if isinstance(context, dict) and report.location:
        words = f"[{context['msg']}]" if context.get("msg") else ""
        if context.get("kwargs"):
            words += " ({})".format(", ".join(f"{name}={value}" for name, value in context["kwargs"].items()))
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
