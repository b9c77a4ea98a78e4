"""The pytest plugin inside a container that writes down what pytest says, for the developer's pytest to say again.

Collection, reports, warnings, statuses and what other plugins write to the terminal become records (see
`records`; their kinds are in docs/wire.md). What pytest's own terminal reporter writes is not recorded: the
developer's own reporter writes it from the reports; here it goes to the file `terminal`. Standard library
and pytest 7.0 or newer only; it must change nothing of the session that it watches.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import linecache
import os
import platform
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # in a container this file stands alone: what it needs of `records` comes with the object
    from pytest_remote_ci.job.records import Records

#: Statuses that every pytest works out by itself.
_ORDINARY = {
    ("", "", ""), ("passed", ".", "PASSED"), ("failed", "F", "FAILED"), ("error", "E", "ERROR"),
    ("skipped", "s", "SKIPPED"), ("xfailed", "x", "XFAIL"), ("xpassed", "X", "XPASS"),
}  # fmt: skip
#: Items of a collection in one record.
_ITEMS = 400
#: Parts of a report that are the same in all its phases and travel once.
_CONSTANT = ("location", "keywords", "user_properties")
#: Calls of the terminal reporter ("tr") and its writer ("tw") that are recorded when a plugin makes them, and
#: the modules of pytest that count as plugins because the developer's pytest will not make these calls.
_CALLS = {
    "tr": ("write", "write_line", "write_sep", "line", "section", "rewrite", "ensure_newline", "write_raw"),
    "tw": ("write", "line", "sep", "write_raw"),
}
_LIKE_PLUGINS = {
    "tr": ("_pytest.logging",),
    "tw": ("_pytest.logging", "_pytest.setuponly", "_pytest.setupplan", "_pytest.runner"),
}


class Recorder:
    """Hands what happens in one session to `records`."""

    def __init__(self, records: Records) -> None:
        self._add, self._cut = records.add, records.cut
        self._records = records
        self._config: Any = None
        self._status: tuple[Any, Any] = (None, None)
        self._before: dict[str, dict[str, Any]] = {}
        self._has_tree = False
        self._workers: set[str] = set()
        self._running: set[str] = set()

    # -- session

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: Any) -> None:
        """Other hooks do not get the configuration."""
        self._config = config

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionstart(self, session: Any) -> Any:
        """Say what this session is; from here on the terminal reporter is the final one."""
        config = session.config
        self._add(
            "session", protocol=self._records.protocol, pytest=pytest.__version__, python=platform.python_version(),
            rootdir=str(config.rootpath), xdist=bool(getattr(config.option, "tx", None)), at=time.time(),
            plugins=sorted({d.project_name for _, d in config.pluginmanager.list_plugin_distinfo()}),
        )  # fmt: skip
        self._watch_terminal(config)
        yield

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_report_header(self) -> Any:
        """The header's lines, in the terminal reporter's order."""
        result = yield
        import pluggy

        first = (
            f"platform {sys.platform} -- Python {platform.python_version()}, "
            f"pytest-{pytest.__version__}, pluggy-{pluggy.__version__}"
        )
        if self._config.option.verbose > 0:
            first += f" -- {sys.executable}"
        self._add("header", lines=[first, *_lines(result.get_result())])

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: Any) -> Any:
        """The end of the tests; then the final exit status, which other plugins may have changed."""
        with contextlib.suppress(Exception):
            from _pytest.junitxml import xml_key

            xml = self._config.stash.get(xml_key, None)
            if xml is not None and xml.global_properties:
                self._add("junit", properties=[list(item) for item in xml.global_properties])
        self._add(
            "tests_over",
            shouldfail=_text_or_none(session.shouldfail),
            shouldstop=_text_or_none(session.shouldstop),
        )
        yield
        cache = getattr(self._config, "cache", None)
        values = {}
        if cache is not None and getattr(self._config.option, "stepwise", False):
            values["cache/stepwise"] = cache.get("cache/stepwise", None)
        self._add("end", exitstatus=int(session.exitstatus), cache=values)

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self) -> None:
        """What plugins write from here on belongs into the summary."""
        self._add("summary")

    def pytest_internalerror(self, excrepr: Any, excinfo: Any) -> None:
        """pytest or a plugin is broken, maybe while it heard of a report, which the terminal has shown already."""
        shown = self._status[0]
        if isinstance(shown, pytest.TestReport) and shown.nodeid in self._running:
            self._report("report", shown)
        self._add("internal_error", text=str(excrepr), exception=excinfo.exconly())

    def pytest_keyboard_interrupt(self, excinfo: Any) -> None:
        """Ctrl-C, `pytest.exit` and the like."""
        value, crash = excinfo.value, excinfo._getreprcrash()
        self._add(
            "interrupt", name=excinfo.typename, module=type(value).__module__,
            message=str(getattr(value, "msg", value)), code=getattr(value, "returncode", None),
            at=[str(crash.path), crash.lineno] if crash else None,
        )  # fmt: skip

    # -- collection

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """pytest has started; command line and initial conftests were good."""
        self._add("collecting")

    def pytest_collectreport(self, report: Any) -> None:
        """Failures and skips only: what was collected comes as one tree."""
        if report.outcome != "passed":
            self._report("collect_report", report)

    def pytest_deselected(self, items: Any) -> None:
        """How many."""
        self._add("deselected", count=len(items))

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: Any) -> None:
        """The tree of what will run, in portions."""
        tree = _Tree(self._config)
        for start in range(0, len(session.items), _ITEMS):
            items = [tree.item(item) for item in session.items[start : start + _ITEMS]]
            self._add("tree", nodes=tree.take_nodes(), items=items)
        self._has_tree = True
        self._add("collected", count=len(session.items))

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_report_collectionfinish(self) -> Any:
        """Lines such as "run-last-failure: …"."""
        result = yield
        self._add("collection_lines", lines=_lines(result.get_result()))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Any) -> None:
        """Under xdist the workers collect, all the same."""
        if not self._has_tree:
            self._has_tree = True
            self._add("collected_ids", ids=list(ids))

    # -- tests

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        """This test runs now."""
        self._running.add(nodeid)
        self._add("started", id=nodeid, location=list(location), at=time.time())

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        """It is over."""
        self._before.pop(nodeid, None)
        self._running.discard(nodeid)
        self._add("finished", id=nodeid, location=list(location))

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Any:
        """Remember what plugins and conftests make of a report."""
        result = yield
        self._status = (report, result.get_result())

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        """After the terminal reporter: since pytest 9 it is in there that a parent of failed subtests fails."""
        self._report("report", report)

    def pytest_exception_interact(self, call: Any, report: Any) -> None:
        """Some reporters hear of errors only from this hook."""
        if call.excinfo is not None:
            self._add(
                "exception", id=report.nodeid, when=getattr(report, "when", None), name=call.excinfo.typename,
                text=self._cut(call.excinfo.exconly()),
            )  # fmt: skip

    def pytest_warning_recorded(self, warning_message: Any, when: str, nodeid: str, location: Any) -> None:
        """With the source line, which the developer's pytest cannot look up."""
        warning = warning_message
        category = warning.category or type(warning.message)
        line = warning.line
        if line is None:
            line = linecache.getline(warning.filename, warning.lineno).rstrip("\n")
        self._add(
            "warning", message=str(warning.message), name=category.__name__, module=category.__module__,
            bases=[base.__name__ for base in category.__mro__ if base.__module__ == "builtins"],
            file=warning.filename, lineno=warning.lineno, line=line, when=when, id=nodeid,
            location=list(location) if location else None,
        )  # fmt: skip

    def _report(self, kind: str, report: Any) -> None:
        node = report.__dict__.pop("node", None)  # xdist's controller of a worker
        try:
            data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        finally:
            if node is not None:
                report.node = node
        if data is None:
            data = {"nodeid": report.nodeid, "outcome": report.outcome, "longrepr": str(report.longrepr)}
        data["sections"] = [
            (str(name), self._cut(text) if isinstance(text, str) else str(text))
            for name, text in data.get("sections") or ()
        ]
        if kind == "collect_report":
            data["result"] = None
        fields: dict[str, Any] = {"d": data}
        self._flattened(report.longrepr, data, fields)
        if node is not None:
            fields["worker"] = self._worker(node)
        if kind == "report":
            status = self._status_of(report)
            if status and not (isinstance(status[2], str) and tuple(status) in _ORDINARY):
                fields["status"] = list(status)
            fields["d"] = self._difference(data, fields)
        self._add(kind, **fields)

    def _flattened(self, longrepr: Any, data: dict[str, Any], fields: dict[str, Any]) -> None:
        """pytest makes text of some representations; remember that they were none, and their colours."""
        if not isinstance(data.get("longrepr"), str) or isinstance(longrepr, str):
            return
        if not hasattr(longrepr, "toterminal"):
            return
        fields["flattened"] = type(longrepr).__name__
        if getattr(self._config.option, "color", None) == "yes":
            with contextlib.suppress(Exception):
                from _pytest._io import TerminalWriter

                text = io.StringIO()
                writer = TerminalWriter(text)
                writer.hasmarkup = True
                longrepr.toterminal(writer)
                fields["markup"] = self._cut(text.getvalue())

    def _status_of(self, report: Any) -> Any:
        (asked, status), self._status = self._status, (None, None)
        if asked is report:
            return status
        status = self._config.hook.pytest_report_teststatus(report=report, config=self._config)
        self._status = (None, None)
        return status

    def _difference(self, data: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
        """Without what the test's previous phase said already: each phase repeats the earlier sections."""
        before, self._before[data["nodeid"]] = self._before.get(data["nodeid"]), data
        if before is None:
            return data
        small = {
            key: value for key, value in data.items() if key not in _CONSTANT or before.get(key) != value
        }
        old, new = before["sections"], data["sections"]
        shared = 0
        while shared < min(len(old), len(new)) and old[shared] == new[shared]:
            shared += 1
        if shared:
            small["sections"] = new[shared:]
            fields["shared"] = shared
        return small

    def _worker(self, node: Any) -> str:
        name = str(node.gateway.id)
        if name not in self._workers:
            self._workers.add(name)
            with contextlib.suppress(Exception):
                from _pytest import reports

                describe: Any = reports.getworkerinfoline
                self._add("worker", id=name, line=describe(node))
        return name

    # -- terminal

    def _watch_terminal(self, config: Any) -> None:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        writer = getattr(reporter, "_tw", None)
        if writer is None or not hasattr(writer, "_file"):
            return
        writer._file = self._records.in_place_of(writer._file)
        for target, name in ((reporter, "tr"), (writer, "tw")):
            for method in _CALLS[name]:
                self._watch(target, name, method)

    def _watch(self, target: Any, name: str, method: str) -> None:
        """Record calls that plugins make, by name: so the width and the colours are the developer's."""
        original = getattr(target, method, None)
        if original is None:
            return
        add, frame, like_plugins = self._add, sys._getframe, _LIKE_PLUGINS[name]

        def recorded(*args: Any, **kwargs: Any) -> Any:
            caller = frame(1).f_globals.get("__name__", "")
            if not caller.startswith("_pytest.") or caller in like_plugins:
                kept = {key: value for key, value in kwargs.items() if key != "flush"}
                add("terminal", target=name, method=method, args=list(args), kwargs=kept)
            return original(*args, **kwargs)

        setattr(target, method, recorded)


class _Tree:
    """Nodes by number: each is told once, before its first child."""

    def __init__(self, config: Any) -> None:
        self._root = str(config.rootpath)
        self._wants_docs = config.option.collectonly and config.option.verbose >= 1
        self._numbers: dict[int, int] = {}
        self._new: list[Any] = []

    def item(self, item: Any) -> list[Any]:
        """[parent, type, name, node id, location, has parameters, original name, is skipped, documentation]"""
        skipped = any(mark.name == "skip" for mark in item.own_markers)
        return [
            self._number(item.parent), type(item).__name__, item.name, item.nodeid, list(item.location),
            getattr(item, "callspec", None) is not None, getattr(item, "originalname", None), skipped, self._doc(item),
        ]  # fmt: skip

    def take_nodes(self) -> list[Any]:
        """New nodes: [parent, type, name, node id, path, base, documentation]; the session's parent is -1."""
        nodes, self._new = self._new, []
        return nodes

    def _number(self, node: Any) -> int:
        known = self._numbers.get(id(node))
        if known is not None:
            return known
        parent = -1 if node.parent is None else self._number(node.parent)
        self._numbers[id(node)] = number = len(self._numbers)
        self._new.append(
            [
                parent,
                type(node).__name__,
                node.name,
                node.nodeid,
                self._path(node),
                _base(node),
                self._doc(node),
            ]
        )
        return number

    def _path(self, node: Any) -> str:
        try:
            return os.path.relpath(str(node.path), self._root).replace(os.sep, "/")
        except ValueError:
            return str(node.path)

    def _doc(self, node: Any) -> str | None:
        obj = getattr(node, "obj", None) if self._wants_docs else None
        return inspect.getdoc(obj) if obj else None


def _base(node: Any) -> str:
    for kind in (pytest.Class, pytest.Module, pytest.File):
        if isinstance(node, kind):
            return kind.__name__
    return "Dir"


def _lines(results: Any) -> list[str]:
    lines: list[str] = []
    for result in reversed(results):
        lines.extend([result] if isinstance(result, str) else result)
    return lines


def _text_or_none(value: Any) -> str | None:
    return str(value) if value else None
