"""What the pytests before this one reported, told to the reporters of second reports, whose reports are whole then.

Each report is made again from its record, with what hooks of the project had left in it, and only the reporter hears of
it; hooks by which the project shapes that report are called as for any other. Of a test that took pytest down the last
reports are made by `pytest_runtest_makereport` here, because nobody could call it there. Standard library and pytest
only.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import warnings
from typing import Any, Callable, Iterator

import pytest

from . import aftermath, second_reports

#: Parts of a report that are said once for all phases of a test.
_CONSTANT = ("location", "keywords", "user_properties")
#: What is known of the last phase of a test that took pytest down.
_KNOWN = ("outcome", "longrepr", "sections", "duration", "start", "stop")
#: What pytest-json-report hangs on items while they run, and on reports.
_EXTRA = "_json_report_extra"
#: Options that name files which the pytests before have written; whoever opens one begins it anew.
_FILES = ("report_log", "xmlpath", "htmlpath", "json_report_file", "benchmark_json", "allure_report_dir")
#: Where reporters keep the time at which the session began.
_BEGINNINGS = ("_suite_start_time", "suite_start_time", "_start_time")


class Retold:
    """A pytest plugin of a pytest that was started again."""

    def __init__(self, path: str, earlier: aftermath.Aftermath, note: Callable[[str], None]) -> None:
        """`path`: the records; `earlier`: what they come to; `note`: takes a line for the end of the session."""
        self._path, self._earlier, self._note = path, earlier, note
        self._items: dict[str, Any] = {}
        #: The second reports of this session.
        self.seconds: Any = None

    def pytest_itemcollected(self, item: Any) -> None:
        """Also those that have run already, one of which took pytest down."""
        self._items[item.nodeid] = item

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: Any) -> Any:
        """Everything is collected, so all conftests are there; nothing has run yet."""
        for name, package in self.seconds.shaped(session.config):
            try:
                self._tell(session.config, package)
            except Exception as error:  # of a hook, which maybe needs to have seen the tests run
                self.seconds.drop(name)
                self._note(
                    f"the report of {package} is without what the project's hooks do, because pytest was taken down "
                    f"and one of them failed for an earlier test: {type(error).__name__}: {error}"
                )
        self._items.clear()
        yield

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: Any) -> Any:
        """Reporters count the tests of the whole session."""
        count, session.testscollected = session.testscollected, len(self._earlier.collected)
        yield
        session.testscollected = count

    def _tell(self, config: Any, package: str) -> None:
        reports = _Reports(config, self._items)
        with open(self._path, "rb") as file:
            for record in _records(file):
                kind = record.get("t")
                if kind == "session":
                    _set_back(config, package, record.get("at"))
                elif kind == "warning" and record["when"] == "runtest":
                    _call(config, package, "pytest_warning_recorded", _warning(record))
                else:
                    report = reports.take(record)
                    if report is not None:
                        _call(config, package, "pytest_runtest_logreport", {"report": report})


class NoTests:
    """A pytest plugin: nothing is left to run, and the session is over as one that has failed."""

    def __init__(self, earlier: aftermath.Aftermath) -> None:
        self._failures = max(1, earlier.failures)

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: Any) -> None:
        """Second reports are all that is written."""
        seconds = config.pluginmanager.get_plugin(second_reports.NAME)
        wanted = seconds.options if seconds is not None else ()
        for name in _FILES:
            if name not in wanted and getattr(config.option, name, None):
                setattr(config.option, name, None)
        config.option.log_file = os.devnull

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> Any:
        """After all others, which may want to see them."""
        yield
        del items[:]

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtestloop(self, session: Any) -> Any:
        """Before, failures would be errors of the collection."""
        yield
        session.testsfailed += self._failures


class _Reports:
    """Makes reports of one session's records."""

    def __init__(self, config: Any, items: dict[str, Any]) -> None:
        self._config, self._items = config, items
        #: Of each running test what earlier phases, or its start, have said.
        self._before: dict[str, dict[str, Any]] = {}
        self._extras: dict[str, Any] = {}

    def take(self, record: dict[str, Any]) -> Any:
        """The report of a test's phase, if this is the record of one."""
        kind = record.get("t")
        if kind == "started":
            self._before[record["id"]] = {"location": record["location"]}
        elif kind == "finished":
            self._before.pop(record["id"], None)
            self._extras.pop(record["id"], None)
        elif kind == "passed":
            return self._passed(record)
        elif kind == "report":
            report = self._report(record)
            if record.get("crash"):
                report = self._crashed(report)
            self._extras[report.nodeid] = getattr(report, _EXTRA, {})
            return report
        return None

    def _passed(self, record: dict[str, Any]) -> Any:
        known = self._before.setdefault(record["id"], {})
        known.update({name: record[name] for name in ("location", "keywords") if name in record})
        known.update(sections=[], user_properties=[])
        times = {name: record[name] for name in ("duration", "start", "stop") if name in record}
        return pytest.TestReport(
            record["id"], _location(known, record["id"]), dict.fromkeys(known.get("keywords", ()), 1), "passed", None,
            record["when"], **times,
        )  # fmt: skip

    def _report(self, record: dict[str, Any]) -> Any:
        data = dict(record["d"])
        before = self._before.get(data["nodeid"], {})
        for name in _CONSTANT:
            if name not in data and name in before:
                data[name] = before[name]
        _restore(data, record.get("values") or {})
        shared = before.get("sections", [])[: int(record.get("shared") or 0)]
        data["sections"] = shared + [tuple(section) for section in data.get("sections") or ()]
        data["keywords"] = dict.fromkeys(data.get("keywords") or (), 1)
        data["location"] = _location(data, data["nodeid"])
        if isinstance(data.get("longrepr"), list):  # where and why a test was skipped
            data["longrepr"] = tuple(data["longrepr"])
        self._before[data["nodeid"]] = {name: data[name] for name in (*_CONSTANT, "sections") if name in data}
        return self._config.hook.pytest_report_from_serializable(config=self._config, data=data)

    def _crashed(self, report: Any) -> Any:
        """The same, as the hooks of the project would have left it had the test failed."""
        item = self._items.get(report.nodeid)
        if item is None:
            return report
        streams = {f"Captured {name} {report.when}": name for name in ("stdout", "stderr")}
        written = {streams[title]: text for title, text in report.sections if title in streams}
        setattr(item, _EXTRA, {**self._extras.get(report.nodeid, {}), report.when: written})
        try:
            call = pytest.CallInfo.from_call(lambda: _end(report), when=report.when)
            made = item.ihook.pytest_runtest_makereport(item=item, call=call)
        except Exception:  # of a hook that wants more of the test than there is
            return report
        finally:
            delattr(item, _EXTRA)
        for name in _KNOWN:
            if hasattr(report, name):
                setattr(made, name, getattr(report, name))
        return made


class PytestWasTakenDown(Exception):
    """What a test failed with that took pytest down, for who asks."""


def _end(report: Any) -> None:
    if report.failed:
        raise PytestWasTakenDown(report.longreprtext)


class _Value:
    """A value of which only the text is known; like the value itself it is nothing for JSON."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _restore(data: dict[str, Any], values: dict[str, Any]) -> None:
    """Properties are pairs, and some values have travelled beside them."""
    found = [tuple(pair) for pair in data.get("user_properties") or ()]
    for place, (kind, text) in values.items():
        value: Any = _Value(text)
        if kind == "literal":
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                value = ast.literal_eval(text)
        found[int(place)] = (found[int(place)][0], value)
    data["user_properties"] = found


def _location(data: dict[str, Any], nodeid: str) -> Any:
    file, _, name = nodeid.partition("::")
    return tuple(data.get("location") or (file, None, name))


def _warning(record: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `pytest_warning_recorded`."""
    category = type(str(record["name"]), (Warning,), {"__module__": str(record["module"])})
    message = warnings.WarningMessage(
        category(record["message"]), category, record["file"], record["lineno"], line=record["line"]
    )
    location = tuple(record["location"]) if record["location"] else None
    return {"warning_message": message, "when": record["when"], "nodeid": record["id"], "location": location}


def _set_back(config: Any, package: str, beginning: Any) -> None:
    """The session began when the first pytest did."""
    for implementation in _implementations(config, package, "pytest_runtest_logreport"):
        for name in _BEGINNINGS:
            now = getattr(implementation.plugin, name, None)
            if isinstance(now, float) and isinstance(beginning, float) and 0 < beginning < now:
                setattr(implementation.plugin, name, beginning)


def _call(config: Any, package: str, hook: str, given: dict[str, Any]) -> None:
    for implementation in _implementations(config, package, hook):
        implementation.function(*[given[name] for name in implementation.argnames])


def _implementations(config: Any, package: str, hook: str) -> Iterator[Any]:
    """Those of the reporter."""
    for implementation in getattr(config.hook, hook).get_hookimpls():
        module = getattr(implementation.function, "__module__", None) or ""
        if module.partition(".")[0] == package and not implementation.hookwrapper:
            yield implementation


def _records(file: Any) -> Iterator[dict[str, Any]]:
    """In their order, each on its own."""
    for line in aftermath.lines(file):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # cut off by a death
            continue
        if isinstance(record, dict):
            yield from record["of"] if record.get("t") == "several" else (record,)
