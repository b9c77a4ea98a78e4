"""Warnings of tests and of reporters: the same as in a direct run, but for their order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.developer import Done, run

from .comparison import Pair, difference, normalised
from .environments import Equipped
from .test_plugins import tamed

#: Warns in every hook in which a reporter hears of a test, and says what it hears of warnings.
LOUD = """
import warnings

HEARD = []

def pytest_configure(config):
    if hasattr(config, "workerinput"):  # xdist's controller hears of all tests
        config.pluginmanager.unregister(name="loud")

def pytest_runtest_logstart(nodeid):
    warnings.warn(f"{nodeid} starts")

def pytest_runtest_logreport(report):
    warnings.warn(f"{report.nodeid} has a {report.when}", DeprecationWarning)
    warnings.warn(f"{report.nodeid} has a {report.when}, again")

def pytest_exception_interact(report):
    warnings.warn(f"{report.nodeid} has an error")

def pytest_runtest_logfinish(nodeid):
    warnings.warn(f"{nodeid} ends")

def pytest_warning_recorded(warning_message, when, nodeid, location):
    HEARD.append(f"HEARD {when} {nodeid} {location} {warning_message.category.__name__} {warning_message.message}")

def pytest_terminal_summary(terminalreporter):
    for line in HEARD:
        terminalreporter.write_line(line)
"""
#: The same without the last hooks, whose lines of over there would come home. By default the same text from the same
#: line is a warning only once, until somebody looks for warnings, as `pytest.warns` does.
WARNS = LOUD.partition("def pytest_warning_recorded")[0].replace(
    "{report.nodeid} has a {report.when}, again", "again"
)


def with_plugin(both: Pair, folder: Path, *args: str, text: str = LOUD) -> tuple[Done, Done]:
    """Run it directly with the plugin, and remotely with the plugin here only."""
    folder.mkdir(exist_ok=True)
    (folder / "loud.py").write_text(text)
    more = {"PYTHONPATH": str(folder), "PYTEST_PLUGINS": "loud", "COLUMNS": "100"}
    env = {name: value for name, value in both.developer.environ().items() if "REMOTE_CI" not in name}
    direct = run([str(both.python), "-m", "pytest", *args], cwd=both.direct, env=env | more)
    return direct, both.developer.pytest(*args, cwd=both.local, env=more)


@pytest.mark.parametrize("line", ["-rA", "-v -W error::FutureWarning -W ignore:.*setup", "-x -q"])
def test_warnings_of_a_reporter_that_is_only_here_are_those_of_a_direct_run(
    pair: Callable[[str], Pair], tmp_path: Path, line: str
) -> None:
    both = pair("warned")
    direct, remote = with_plugin(both, tmp_path / "plugins", *line.split())
    assert "HEARD runtest test_warned.py::test_warns None UserWarning from call" in direct.out
    found = both.difference(unordered(direct, both.direct), unordered(remote, both.local))
    assert not found, found


@pytest.mark.parametrize("line", ["-p loud", "-p loud -v -rA"])
def test_what_a_reporter_in_both_places_warns_of_is_said_once(pair: Callable[[str], Pair], line: str) -> None:
    both = pair("warned")
    for place in (both.direct, both.local):
        (place / "loud.py").write_text(WARNS)
    direct, remote = both.run(*line.split())
    assert "UserWarning: test_warned.py::test_warns starts" in direct.out
    found = both.difference(unordered(direct, both.direct), unordered(remote, both.local))
    assert not found, found


def test_where_nobody_catches_warnings_it_is_said_once(pair: Callable[[str], Pair]) -> None:
    both = pair("warned")
    for place in (both.direct, both.local):  # what tests themselves print is as they printed it
        (place / "loud.py").write_text(WARNS.replace('f"again"', 'report.nodeid + "again" + report.when'))
    direct, remote = both.run("-p", "loud", "-p", "no:warnings", "--show-capture=no")
    assert "UserWarning: test_warned.py::test_warns ends" in direct.err
    found = both.difference(direct, remote)
    assert not found, found


def test_what_a_conftest_warns_of_is_where_a_direct_run_has_it(
    pair: Callable[[str], Pair], tmp_path: Path
) -> None:
    both = pair("warned")
    for place in (both.direct, both.local):
        (place / "conftest.py").write_text(WARNS.replace("warn(", "warn('there: ' + "))
    direct, remote = with_plugin(both, tmp_path / "plugins")
    found = both.difference(unordered(direct, both.direct), unordered(remote, both.local))
    assert not found, found


def test_a_replay_has_the_same_warnings_in_the_same_order(
    pair: Callable[[str], Pair], tmp_path: Path
) -> None:
    both = pair("warned")
    _, remote = with_plugin(both, tmp_path / "plugins")
    job = remote.err.partition("Job ID: ")[2].split()[0]
    more = {"PYTHONPATH": str(tmp_path / "plugins"), "PYTEST_PLUGINS": "loud", "COLUMNS": "100"}
    for option in ("attach", "replay"):
        again = both.developer.pytest(f"--remote-ci-{option}={job}", cwd=both.local, env=more)
        found = difference(remote, again, both.local, both.local)
        assert not found, found


@pytest.mark.parametrize("line", ["-n 1 -v", "-n 2 -q"])
def test_where_xdist_runs_nobody_catches_what_a_reporter_warns_of(
    equipped: Equipped, bare: Path, tmp_path: Path, line: str
) -> None:
    both = equipped.pair("warned", "tools", bare, tmp_path)
    direct, remote = with_plugin(both, tmp_path / "plugins", *line.split())
    assert "UserWarning: test_warned.py::test_warns starts" in direct.err
    is_ordered = "-n 1" in line
    one, other = (
        Done(done.code, tamed(done, root, is_ordered=is_ordered).out, _sorted(done.err, is_ordered))
        for done, root in ((direct, both.direct), (remote, both.local))
    )
    found = both.difference(one, other)
    assert not found, found


def test_where_xdist_runs_a_reporter_in_both_places_is_heard_once(
    equipped: Equipped, bare: Path, tmp_path: Path
) -> None:
    both = equipped.pair("warned", "tools", bare, tmp_path)
    for place in (both.direct, both.local):
        (place / "loud.py").write_text(WARNS)
    direct, remote = both.run("-p", "loud", "-n", "1", "-v")
    assert "loud.py" in direct.err
    one, other = (
        Done(done.code, tamed(done, root, is_ordered=True).out, done.err)
        for done, root in ((direct, both.direct), (remote, both.local))
    )
    found = both.difference(one, other)
    assert not found, found


def unordered(done: Done, root: Path) -> Done:
    """The same lines, sorted."""
    return Done(done.code, _sorted(normalised(done.out, root), False), done.err)


def _sorted(text: str, is_ordered: bool) -> str:
    return text if is_ordered else "".join(sorted(text.splitlines(keepends=True)))
