"""Every private name of pytest that the client uses, with the versions of pytest that have it.

All were seen in 7.0, 7.4, 8.0, 8.4, 9.0 and 9.2, except where another range is given. What is different without a name
is in the comment next to it. `tests/test_architecture.py` rejects private names in the client's other modules; those
that the job needs are in `pytest_remote_ci.job.pytest_internals`.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from io import StringIO
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import pytest

# Classes of tracebacks, and the mapping that is a node's `keywords`. Without them no session can be replayed.
from _pytest._code.code import ExceptionChainRepr as ExceptionChainRepr
from _pytest._code.code import ReprEntry as ReprEntry
from _pytest._code.code import ReprFileLocation as ReprFileLocation
from _pytest._code.code import TerminalRepr as TerminalRepr
from _pytest.mark.structures import Mark
from _pytest.mark.structures import NodeKeywords as NodeKeywords

from pytest_remote_ci.job.pytest_internals import PYTEST, all_are_of
from pytest_remote_ci.options import FOREIGN

if TYPE_CHECKING:
    import argparse

    from _pytest._io import TerminalWriter as TerminalWriter
    from _pytest.junitxml import LogXML

    _Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)

#: Prefix of the names of our own modules.
OURS = "pytest_remote_ci."
#: Options that were applied in the job and must not be applied twice → neutral value.
_OBEYED = dict(reset for option in FOREIGN for reset in option.resets)

# -- options and settings


def leave_own_asserts() -> None:
    """Import our own modules as Python does, from now on.

    pytest's import hook would compile each of them anew where byte code is not written, and slow them down elsewhere:
    it rewrites the asserts of all modules of a distribution that has a plugin. Without the names it goes on doing so.
    """
    for finder in sys.meta_path:
        marked = getattr(finder, "_must_rewrite", None)
        if isinstance(marked, set):
            marked.difference_update({name for name in marked if f"{name}.".startswith(OURS)})
            vars(finder).get("_marked_for_rewrite_cache", {}).clear()


def skip_version_check(config: pytest.Config) -> None:
    """Let pytest ignore `minversion`, and `filterwarnings`, which it applies after this check and before plugins.

    Without the name, pytest refuses to start if it is too old for the project, or if classes cannot be imported.
    """

    def ignore_filters() -> None:
        override_settings(config, {"filterwarnings": []})  # in the job they count

    if hasattr(config, "_checkversion"):
        config._checkversion = ignore_filters  # type: ignore[method-assign]  # a patch


def override_settings(config: pytest.Config, values: Mapping[str, object]) -> None:
    """Set values of the configuration file, also before pytest validates `required_plugins`.

    Without the name, a session works if the project's settings can be evaluated locally.
    """
    cache = getattr(config, "_inicache", None)
    if isinstance(cache, dict):
        cache.update(values)


def undeclared_settings(config: pytest.Config, parser: pytest.Parser) -> list[str]:
    """Return the names in the configuration file that no plugin declares.

    `_ini_aliases` exists since 9.0; 6.2 has no `_inicfg` but `inicfg`. Without the names, ``--strict-config`` refuses
    settings of plugins that exist only in the job.
    """
    known = {**getattr(parser, "_inidict", {}), **getattr(parser, "_ini_aliases", {})}
    given = getattr(config, "_inicfg", None) or config.__dict__.get("inicfg") or {}
    return [name for name in given if name not in known]


def parser_actions(config: pytest.Config) -> dict[str, argparse.Action] | None:
    """Return option → action of argparse. None without the names: then a list of common options is used.

    Up to 8.x the parser of argparse is made by `_getparser`; since 9.0 it is `optparser`.
    """
    parser: Any = getattr(config, "_parser", None)
    with contextlib.suppress(AttributeError):
        made = parser.optparser if hasattr(parser, "optparser") else parser._getparser()
        found: dict[str, argparse.Action] = made._option_string_actions
        return found
    return None


def switch_off(config: pytest.Config, keep: Collection[str] = ()) -> None:
    """Reset the options that the remote pytest has already applied, except `keep`, and hide the local header.

    Warnings about the configuration are forgotten, because the remote pytest has its own. Without `_call_history`
    (pluggy 1.0 to 1.6), they are shown, too.
    """
    history = getattr(config.hook.pytest_warning_recorded, "_call_history", None)
    if isinstance(history, list):
        history.clear()
    for name, value in _OBEYED.items():
        if hasattr(config.option, name) and name not in keep:
            setattr(config.option, name, value)
    config.option.no_header = True


# -- who implements a hook: the modules of pytest begin with `_pytest`


def is_watched(config: pytest.Config) -> bool:
    """Whether local plugins watch each test through `pytest_runtest_protocol`."""
    return not all_are_of(config.hook.pytest_runtest_protocol, PYTEST, OURS)


def is_heard(config: pytest.Config) -> bool:
    """Whether local plugins receive reports: their warnings are caught around `pytest_runtest_protocol`."""
    return not all_are_of(config.hook.pytest_runtest_logreport, PYTEST, OURS)


# -- reports and items


def report_from_json(kind: type[_Report], data: dict[str, Any]) -> _Report:
    """Return a report of this class. Raises AttributeError without the name: then the constructor is used."""
    return kind._from_json(data)


#: Attribute with the parsed node id of a report (9.2). Without it, the id is parsed for each phase.
ID_OF_REPORT = "_id"


def id_maker() -> Callable[[str], object]:
    """Return the constructor of node ids in pytest's caches: `str` without the class, which exists since 9.2."""
    try:
        from _pytest.nodeid import NodeId
    except ImportError:
        return str
    made: Callable[[str], object] = NodeId.parse
    return made


def make_mark(name: str, kwargs: Mapping[str, object]) -> Mark:
    """Return a mark of an item. Raises an error without the names.

    `pytest.mark` would warn about names that the local settings do not declare.
    """
    return Mark(name, (), dict(kwargs), _ispytest=True)


#: Attribute that is empty in a new item → function that makes it. Attributes without the name stay as they are.
EMPTY_OF_ITEM: Mapping[str, Callable[[pytest.Item], object]] = {
    "keywords": NodeKeywords,
    "own_markers": lambda item: [],
    "extra_keyword_matches": lambda item: set(),
    "stash": lambda item: pytest.Stash(),
    "_store": lambda item: item.stash,  # the name in pytest 6, still present in later versions
    "_report_sections": lambda item: [],
    "user_properties": lambda item: [],
}


# -- the terminal


def terminal_writer(reporter: pytest.TerminalReporter | None) -> TerminalWriter | None:
    """Return what the terminal reporter writes to. None without the name: output of tests can then come too early."""
    return getattr(reporter, "_tw", None)


def terminal_file(writer: TerminalWriter | None) -> TextIO | None:
    """Return the file of a terminal writer. None without the name: then the name of a running test is not shown."""
    return getattr(writer, "_file", None)


@contextlib.contextmanager
def discarded_output(writer: TerminalWriter | None) -> Iterator[None]:
    """Discard what is written to this terminal writer. Without the name, it is shown."""
    if writer is None or not hasattr(writer, "_file"):
        yield
        return
    shown, writer._file = writer._file, StringIO()
    try:
        yield
    finally:
        writer._file = shown


def count_collected(reporter: pytest.TerminalReporter | None, number: int) -> None:
    """Add to the tests that the terminal reporter counted. Without the name, it reports that fewer were collected."""
    if reporter is not None and hasattr(reporter, "_numcollected"):
        reporter._numcollected += number


def fill_with_progress(reporter: pytest.TerminalReporter) -> None:
    """End a line of results with the progress. Without the names, the line has none."""
    fill = getattr(reporter, "_write_progress_information_filling_space", None)
    if fill is not None and getattr(reporter, "_show_progress_info", False):
        fill()


def hide_progress(reporter: pytest.TerminalReporter | None) -> None:
    """Let the terminal reporter write no more progress. Without the name, it writes it at the end of the tests."""
    if reporter is not None and hasattr(reporter, "_show_progress_info"):
        reporter._show_progress_info = False


# -- local reports


def junit_xml(config: pytest.Config) -> LogXML | None:
    """Return what writes the JUnit report, None if nothing does or without the name: then it lacks properties."""
    try:
        from _pytest.junitxml import xml_key
    except ImportError:
        return None
    return config.stash.get(xml_key, None)


def add_junit_error(config: pytest.Config, address: str, message: str, text: str, seconds: float) -> None:
    """Add a case with an error to the JUnit report; without the names, the case is missing.

    `address` is in the form of a node id: ``pipeline/stage::job``.
    """
    with contextlib.suppress(AttributeError, TypeError):
        xml = junit_xml(config)
        if xml is None:
            return
        report = pytest.TestReport(
            nodeid=address,
            location=(address.partition("::")[0], None, address),
            keywords={},
            outcome="failed",
            longrepr=None,
            when="setup",
            duration=seconds,
        )
        case = xml.node_reporter(report)
        case.record_testreport(report)
        case._add_simple("error", message, text)
        case.duration = seconds
        xml.finalize(report)


def give_up_results(config: pytest.Config, nodeids: Iterable[str], category: str) -> None:
    """Move the results of these tests and collectors into a category of their own of the terminal's summary.

    Without the name, they stay what they were.
    """
    gone = frozenset(nodeids)
    stats = getattr(config.pluginmanager.get_plugin("terminalreporter"), "stats", None)
    if isinstance(stats, dict):
        moved = []
        for results in stats.values():
            mine = [
                result
                for result in results
                if isinstance(result, (pytest.TestReport, pytest.CollectReport))
                and str(result.nodeid) in gone
            ]
            moved += [result for result in mine if result.when == "call" or not result.passed]
            results[:] = [result for result in results if result not in mine]
        for name in [name for name, results in stats.items() if not results]:
            del stats[name]
        if moved:
            stats.setdefault(category, []).extend(moved)


def junit_cases(config: pytest.Config) -> list[object]:
    """Return the cases of the JUnit report so far; none without a report, and without the name."""
    found: list[object] = getattr(junit_xml(config), "node_reporters_ordered", [])
    return found


def remove_junit_cases(config: pytest.Config, cases: Iterable[object]) -> None:
    """Remove finished cases from the JUnit report, and from its numbers. Without the names, they stay."""
    gone = {id(case) for case in cases}
    xml = junit_xml(config)
    if not gone or xml is None:
        return
    with contextlib.suppress(AttributeError, KeyError, TypeError):
        for case in [case for case in xml.node_reporters_ordered if id(case) in gone]:
            tags = [child.tag for child in case.to_xml()]
            for tag in [tag for tag in tags if tag in ("error", "failure", "skipped")] or ["passed"]:
                xml.stats[tag] -= 1
            xml.node_reporters_ordered.remove(case)


def backdate(config: pytest.Config, seconds: float) -> None:
    """Set the session's start back by some seconds, for summaries and reports of a session that is shown later.

    Reporters measure the time since an instant: since 8.4 `_session_start` and `suite_start`, before that
    `_sessionstarttime` and `suite_start_time`. Without the names, the duration is that of the replay.
    """
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    for owner, instant, old in (
        (reporter, "_session_start", "_sessionstarttime"),
        (junit_xml(config), "suite_start", "suite_start_time"),
    ):
        if hasattr(getattr(owner, instant, None), "perf_count"):
            begun = type(getattr(owner, instant))()
            object.__setattr__(begun, "time", begun.time - seconds)
            object.__setattr__(begun, "perf_count", begun.perf_count - seconds)
            setattr(owner, instant, begun)
        elif hasattr(owner, old):
            setattr(owner, old, time.time() - seconds)
