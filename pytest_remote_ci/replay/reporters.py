"""Extra arguments and records for local report plugins and editors, beyond pytest's own hooks.

Arguments that are our own options are removed by `pytest_remote_ci.job.boot`. `ONLY_IF_KNOWN` carries words that
pytest in the job gets only if a plugin there knows the first of them.
"""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_remote_ci.job.boot import ONLY_IF_KNOWN
from pytest_remote_ci.replay.decode import value_of
from pytest_remote_ci.replay.paths import PathMapper
from pytest_remote_ci.replay.pytest_internals import junit_xml
from pytest_remote_ci.wire import records as wire

if TYPE_CHECKING:
    from pluggy import HookImpl

#: Asks for the values of failed comparisons.
COMPARISONS = "--remote-ci-comparisons"
#: Names the packages of local report plugins.
HERE = "--remote-ci-here="
#: Asks for log records as objects, which only pytest-json-report uses.
LOGS = "--remote-ci-logs"


def arguments(config: pytest.Config) -> list[str]:
    """Return arguments to append to the command line."""
    words = []
    if config.getoption("xmlpath", None):
        # `record_testsuite_property` and the like only work if a report is written, so write one to nowhere.
        words.append("--junitxml=/dev/null")
    if config.getoption("json_report", False):
        words.append(ONLY_IF_KNOWN + shlex.join(_json_report(config)))
        if "log" not in (config.getoption("json_report_omit", None) or ()):
            words.append(LOGS)
    if _has_teamcity(config):
        words.append("--verbosity=2")  # as teamcity-messages sets it locally
    listening = sorted(_listening(config) | _registered_later(config))
    if listening:
        words.append(HERE + ",".join(listening))
    if _has_teamcity(config) or _listens_to_comparisons(config):
        words.append(COMPARISONS)
    return words


def prepare_editor(typed: Sequence[str]) -> None:
    """Tell VS Code's adapter about ``--cov-branch``, which pytest's parser must not see without pytest-cov."""
    adapter = sys.modules.get("vscode_pytest")
    if "--cov-branch" in typed and adapter is not None and hasattr(adapter, "INCLUDE_BRANCHES"):
        vars(adapter)["INCLUDE_BRANCHES"] = True


def _json_report(config: pytest.Config) -> list[str]:
    """Let pytest-json-report in the job add log and output to each report; the file is written locally."""
    omitted = [str(name) for name in config.getoption("json_report_omit", None) or ()]
    omit = ["--json-report-omit", *omitted] if omitted else []
    return ["--json-report", *omit, "--json-report-file=none", "--json-report-verbosity=-1"]


def _has_teamcity(config: pytest.Config) -> bool:
    """Whether teamcity-messages, PyCharm's reporter, will report."""
    option = config.option
    if not hasattr(option, "teamcity") or option.no_teamcity:
        return False
    return bool(option.teamcity) or bool(os.environ.get("TEAMCITY_VERSION"))


def _listens_to_comparisons(config: pytest.Config) -> bool:
    return any(
        _is_foreign(implementation)
        for implementation in config.hook.pytest_assertrepr_compare.get_hookimpls()
    )


def _listening(config: pytest.Config) -> set[str]:
    """Return packages with plugins that receive reports locally: the job need not repeat their warnings."""
    hooks = ("logstart", "logreport", "logfinish")
    return {
        implementation.function.__module__.partition(".")[0]
        for name in hooks
        for implementation in getattr(config.hook, f"pytest_runtest_{name}").get_hookimpls()
        if _is_foreign(implementation) and getattr(implementation.function, "__module__", None)
    }


def _registered_later(config: pytest.Config) -> set[str]:
    """Return packages with hooks registered late: pytest-html registers its reporter in `pytest_configure`."""
    return {"pytest_html"} if config.getoption("htmlpath", None) else set()


def _is_foreign(implementation: HookImpl) -> bool:
    """Whether a hook implementation belongs neither to pytest nor to this package."""
    module = getattr(implementation.function, "__module__", "") or ""
    return not module.startswith(("_pytest.", "pytest_remote_ci."))


def adopt(config: pytest.Config, session: wire.Session | None) -> None:
    """Prepare local plugins for a session with this `session` record."""
    if session is None:
        return
    if "pytest-json-report" in (session.plugins or ()):  # it warns in the job
        warnings.filterwarnings("ignore", module="pytest_jsonreport")
    adopt_metadata(config, session.metadata)


def adopt_metadata(config: pytest.Config, found: dict[str, object] | None) -> None:
    """Replace local pytest-metadata by the job's: reports should describe the environment of the tests."""
    key = getattr(sys.modules.get("pytest_metadata.plugin"), "metadata_key", None)
    metadata: object = config.stash.get(key, None) if key is not None else None
    if isinstance(metadata, dict) and found is not None:
        metadata.clear()
        metadata.update(found)


def write_header(reporter: pytest.TerminalReporter, session: wire.Session, lines: list[str]) -> None:
    """Write the header's lines; the first is formatted as pytest-sugar does if that is active."""
    first, *others = lines
    sugar = sys.modules.get("pytest_sugar")
    if sugar is not None and type(reporter).__module__ == sugar.__name__:
        system = first.split()[1]
        versions = f"Python {session.python}, pytest {session.pytest}, pytest-sugar {sugar.__version__}"
        reporter.write_line(f"Test session starts (platform: {system}, {versions})", bold=True)
    else:
        reporter.write_line(first)
    for line in others:
        reporter.write_line(line)


def play_junit(config: pytest.Config, record: wire.JunitProperties | wire.JunitAttribute) -> None:
    """Add properties that fixtures set in the job to the local JUnit report."""
    xml = junit_xml(config)
    if xml is None:
        return
    if isinstance(record, wire.JunitAttribute):
        xml.node_reporter(record.id).add_attribute(record.name, record.value)
        return
    for name, value in record.properties:
        xml.add_global_property(name, value)


def play_comparison(config: pytest.Config, record: wire.Compared, places: PathMapper) -> None:
    """Call local plugins with compared values, for editors that show them; pytest's own text is in the report."""
    left, right = (value_of(kind, places.text(text)) for kind, text in record.operands)
    given = {"config": config, "op": record.operator, "left": left, "right": right}
    for implementation in config.hook.pytest_assertrepr_compare.get_hookimpls():
        if _is_foreign(implementation):
            implementation.function(*[given[name] for name in implementation.argnames])
