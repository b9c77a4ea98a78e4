"""The pytest plugin in the job that records the session, so that the developer's pytest can replay it.

Collection (`nodes`), reports and statuses (`encode`), warnings, and terminal output of other plugins (`screen`)
become records (see `record_file`; their kinds are in docs/reference/wire.md). Standard library and pytest 7.0 or
newer only; it must not change the session that it watches.
"""

from __future__ import annotations

import contextlib
import linecache
import platform
import re
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any, Callable, Generator, Sequence

import pytest

# Relative imports: in a container these files are a package of another name (see `boot`).
from ..wire import records as wire
from .encode import Reports, as_text
from .logs import NAME, Logs, are_wanted
from .nodes import Tree

# Relative imports: in a container these files are a package of another name (see `boot`).
from .pytest_internals import PYTEST, all_are_of, crash_place, junit_xml, watch_attributes
from .screen import Screen

if TYPE_CHECKING:
    import unittest

    import pluggy

    from .record_file import Records

    #: A wrapper of a hook, as pluggy runs it.
    Wrapper = Generator[None, pluggy.Result[Any], None]

#: The order of phases; those of plugins count as calls.
_PHASES = {"setup": 0, "call": 1, "teardown": 2}
#: Packages that print a line about their report's file; not recorded if they also run locally and print it there.
_NAMING_THEIR_FILE = frozenset({"pytest_html"})
#: Limit for the number of items in one record.
_ITEMS = 400


class Recorder:
    """Writes the events of one session to `records`."""

    # Set by `pytest_configure`.
    _config: pytest.Config
    _reports: Reports
    _tree: Tree

    def __init__(self, records: Records) -> None:
        self._add, self._cut = records.add, records.cut
        self._records = records
        self._has_tree = False
        self._metadata: dict[str, object] = {}

    # -- session

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Set up the recorder; other hooks do not get the configuration."""
        self._config = config
        logs = None
        if are_wanted(config):
            logs = Logs()
            config.pluginmanager.register(logs, NAME)
        self._reports = Reports(self._records, config, logs)
        self._tree = Tree(config)
        self.pytest_plugin_registered()
        if getattr(config.option, "remote_ci_comparisons", False):
            watch_unittest(self._compared)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> Generator[None, None, None]:
        """Record what session this is; from here on the terminal reporter is the final one."""
        config = session.config
        reporters = (getattr(config.option, "remote_ci_here", None) or "").split(",")
        silence_reporters(config, [name for name in reporters if name])
        self._metadata = describe(config)
        self._add(
            wire.Session(
                protocol=wire.VERSION,
                pytest=pytest.__version__,
                python=platform.python_version(),
                rootdir=str(config.rootpath),
                xdist=bool(getattr(config.option, "tx", None)),
                at=time.time(),
                maxfail=1 if getattr(config.option, "stepwise", False) else config.option.maxfail or 0,
                metadata=self._metadata,
                measured=config.pluginmanager.hasplugin("_cov"),
                plugins=sorted({d.project_name for _, d in config.pluginmanager.list_plugin_distinfo()}),
            )
        )
        Screen(self._records, silent=_NAMING_THEIR_FILE.intersection(reporters)).watch(config)
        with contextlib.suppress(Exception):
            watch_attributes(self._add_attribute)
        yield

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_report_header(self) -> Wrapper:
        """Record the header's lines, in the terminal reporter's order."""
        result = yield
        import pluggy

        first = (
            f"platform {sys.platform} -- Python {platform.python_version()}, "
            f"pytest-{pytest.__version__}, pluggy-{pluggy.__version__}"
        )
        if self._config.option.verbose > 0:
            first += f" -- {sys.executable}"
        self._add(wire.Header(lines=[first, *_lines(result.get_result())]))

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Record the end of the tests, then the final exit status, which other plugins may have changed."""
        with contextlib.suppress(Exception):
            xml = junit_xml(self._config)
            if xml is not None and xml.global_properties:
                self._add(wire.JunitProperties(properties=list(xml.global_properties)))
        self._add(
            wire.TestsOver(
                shouldfail=_text_or_none(session.shouldfail), shouldstop=_text_or_none(session.shouldstop)
            )
        )
        yield
        cache = getattr(self._config, "cache", None)
        values = {}
        if cache is not None and getattr(self._config.option, "stepwise", False):
            values["cache/stepwise"] = cache.get("cache/stepwise", None)
        self._add(wire.End(exitstatus=int(session.exitstatus), cache=values))

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self) -> None:
        """Record where the summary begins, with the metadata if it changed since the start."""
        metadata = describe(self._config)
        self._add(wire.Summary(metadata=metadata if metadata != self._metadata else None))

    def pytest_internalerror(self, excrepr: object, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Record an internal error of pytest or a plugin.

        If a plugin failed while it handled a report that the terminal has already shown, record that report first.
        """
        shown = self._shown_last()
        if shown is not None:
            self._reports.add(shown)
        self._add(wire.InternalError(text=str(excrepr), exception=excinfo.exconly()))

    def _shown_last(self) -> pytest.TestReport | None:
        """Return the report that the terminal has shown but that is not recorded, else None."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        last = self._reports.last
        for shown in getattr(reporter, "stats", {}).values():
            report = shown[-1] if shown else None
            if type(report) is not pytest.TestReport or report.nodeid not in self._reports.running:
                continue
            is_new = last is None or last.nodeid != report.nodeid
            if is_new or _PHASES.get(str(report.when), 1) > _PHASES.get(str(getattr(last, "when", "")), 1):
                return report
        return None

    def _add_attribute(self, nodeid: str, name: str, value: str) -> None:
        """Record a call of ``record_xml_attribute``, for the report that the developer's pytest will write."""
        self._add(wire.JunitAttribute(id=nodeid, name=name, value=value))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Record Ctrl-C, `pytest.exit` and the like."""
        value, crash = excinfo.value, crash_place(excinfo)
        self._add(
            wire.Interrupt(
                name=excinfo.typename,
                module=type(value).__module__,
                message=str(getattr(value, "msg", value)),
                code=getattr(value, "returncode", None),
                at=(str(crash.path), crash.lineno) if crash else None,
            )
        )

    # -- collection

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Record that pytest has started: command line and initial conftests were valid."""
        self._add(wire.Collecting())

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        """Record which file is imported, because importing it can end this process."""
        if isinstance(collector, pytest.File):
            self._add(wire.CollectingFile(id=collector.nodeid))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record what each collector found; the tests that will run follow as one tree."""
        found = self._tree.found(report.result or ()) if report.outcome == "passed" else None
        self._reports.add_collector(report, found)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Record the number of deselected items, and which of the found ones they are."""
        self._add(wire.Deselected(count=len(items), found=self._tree.numbers(items)))

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Record the tree of the tests that will run, in portions."""
        tree, self._tree = self._tree, Tree(self._config)
        for start in range(0, len(session.items), _ITEMS):
            items = [tree.item(item) for item in session.items[start : start + _ITEMS]]
            self._add(wire.Tree(nodes=tree.pop_new_nodes(), items=items))
        self._has_tree = True
        self._add(wire.Collected(count=len(session.items)))

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_report_collectionfinish(self) -> Wrapper:
        """Record lines such as "run-last-failure: ..."."""
        result = yield
        self._add(wire.CollectionLines(lines=_lines(result.get_result())))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: Sequence[str]) -> None:
        """Record the tests that xdist's workers collected; all workers collect the same."""
        if not self._has_tree:
            self._has_tree = True
            self._add(wire.CollectedIds(ids=list(ids)))

    # -- tests

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str, location: wire.Location) -> None:
        """Record that this test begins."""
        self._reports.running[nodeid] = location
        self._add(wire.Started(id=nodeid, location=location, at=time.time()))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """Note which test runs and which follows."""
        self._reports.quiet.begin(item, nextitem)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str, location: wire.Location) -> None:
        """Record that the test is over, together with the next test's start if that follows at once."""
        self._reports.forget(nodeid)
        add = self._add if self._reports.quiet.is_last else self._records.hold
        add(wire.Finished(id=nodeid, location=location))

    def pytest_plugin_registered(self) -> None:
        """Watch statuses once there are plugins or conftests that take part in them."""
        if not hasattr(self, "_reports"):
            return
        self._reports.quiet.forget()
        manager, hook = self._config.pluginmanager, self._config.hook
        if self._reports.has_statuses:
            return
        if not all_are_of(hook.pytest_report_teststatus, PYTEST):
            self._reports.has_statuses = True
            manager.register(_Statuses(self._reports))

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a report after the terminal reporter, where pytest 9+ fails the parent of failed subtests."""
        self._reports.add(report)

    def pytest_exception_interact(
        self,
        node: pytest.Item | pytest.Collector,
        call: pytest.CallInfo[object],
        report: pytest.TestReport | pytest.CollectReport,
    ) -> None:
        """Record errors, which some reporters learn only from this hook; for a collector it precedes the report."""
        if call.excinfo is not None:
            of = None if isinstance(node, pytest.Item) else self._tree.found([node])
            self._add(
                wire.RaisedException(
                    id=report.nodeid,
                    when=getattr(report, "when", None),
                    name=call.excinfo.typename,
                    text=self._cut(call.excinfo.exconly()),
                    nodes=of.nodes if of is not None else None,
                    items=of.items if of is not None else None,
                    found=of.numbers if of is not None else None,
                )
            )

    def pytest_assertrepr_compare(self, config: pytest.Config, op: str, left: object, right: object) -> None:
        """Record compared values for editors that show them, if requested."""
        if getattr(config.option, "remote_ci_comparisons", False):
            self._compared(op, left, right)

    def _compared(self, operator: str, left: object, right: object) -> None:
        self._add(wire.Compared(operator=operator, operands=[as_text(left), as_text(right)]))

    def pytest_warning_recorded(
        self,
        warning_message: warnings.WarningMessage,
        when: str,
        nodeid: str,
        location: wire.Location | None,
    ) -> None:
        """Record a warning with its source line, which the developer's pytest cannot look up."""
        warning = warning_message
        category = warning.category or type(warning.message)
        line = warning.line
        if line is None:
            line = linecache.getline(warning.filename, warning.lineno).rstrip("\n")
        self._add(
            wire.RecordedWarning(
                message=str(warning.message),
                name=category.__name__,
                module=category.__module__,
                bases=[base.__name__ for base in category.__mro__ if base.__module__ == "builtins"],
                file=warning.filename,
                lineno=warning.lineno,
                line=line,
                when=when,
                id=nodeid,
                location=location or None,
            )
        )


class _Statuses:
    """A separate plugin, because it takes time for each phase of each test."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> Wrapper:
        """Remember the status that plugins and conftests give a report."""
        result = yield
        self._reports.status = (report, result.get_result())


def describe(config: pytest.Config) -> dict[str, object]:
    """Return this environment's metadata in the form of pytest-metadata, whether that is installed or not."""
    key = getattr(sys.modules.get("pytest_metadata.plugin"), "metadata_key", None)
    found = config.stash.get(key, None) if key is not None else None
    if isinstance(found, dict):
        return dict(found)
    import pluggy

    plugins = {dist.project_name: dist.version for _, dist in config.pluginmanager.list_plugin_distinfo()}
    return {
        "Python": platform.python_version(),
        "Platform": platform.platform(),
        "Packages": {"pytest": pytest.__version__, "pluggy": pluggy.__version__},
        "Plugins": {
            name[7:] if name.startswith("pytest-") else name: version for name, version in plugins.items()
        },
    }


def silence_reporters(config: pytest.Config, reporters: list[str]) -> None:
    """Ignore warnings of packages with plugins that also run locally, if the job does not record warnings.

    Recorded warnings are compared locally instead, see `pytest_remote_ci.replay.job`.
    """
    is_distributed = bool(getattr(config.option, "tx", None))
    if is_distributed or not config.pluginmanager.hasplugin("warnings"):
        for name in reporters:
            warnings.filterwarnings("ignore", module=re.escape(name) + r"(\.|\Z)")


def watch_unittest(compared: Callable[[str, object, object], None]) -> None:
    """Report failed comparisons of `unittest`, which has no hook for them, as (actual value, expected value)."""
    import unittest

    original = unittest.TestCase.assertEqual

    # The patch has the name that `unittest` uses.
    def assertEqual(self: unittest.TestCase, first: object, second: object, msg: object = None) -> None:  # noqa: N802
        __tracebackhide__ = True
        try:
            original(self, first, second, msg)
        except self.failureException:
            compared("==", second, first)
            raise

    unittest.TestCase.assertEqual = assertEqual  # type: ignore[method-assign]  # a patch


def _lines(results: list[str | list[str]]) -> list[str]:
    lines: list[str] = []
    for result in reversed(results):
        lines.extend([result] if isinstance(result, str) else result)
    return lines


def _text_or_none(value: object) -> str | None:
    return str(value) if value else None
