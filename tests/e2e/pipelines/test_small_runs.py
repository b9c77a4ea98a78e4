"""Plain sessions in several jobs: one for each Python, and repeated ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from support.developer import Developer, Done

from ci_runner.base_image import pythons

#: Pythons of this machine on which the current pytest runs, the newest last.
INSTALLED = sorted(
    (found for found in pythons.installed() if int(found.version.partition(".")[2]) >= 10),
    key=lambda found: int(found.version.partition(".")[2]),
)
OLD, NEW = INSTALLED[0].version, INSTALLED[-1].version

RUNNER_OPTIONS = ("--concurrency", "2")
RUNNER_ENV = {
    "PATH": os.pathsep.join([*(str(each.prefix / "bin") for each in INSTALLED), os.environ["PATH"]])
}
pytestmark = pytest.mark.parametrize("runner", ["process"], indirect=True)

needs_two = pytest.mark.skipif(OLD == NEW, reason="this machine has one Python only")

TEST = f"""
import sys, pytest

NEW = sys.version_info[:2] == {tuple(map(int, NEW.split(".")))}

def test_same(): pass
def test_fails_in_both(): assert False
def test_differs(): assert not NEW

@pytest.mark.skipif(not NEW, reason="new syntax")
def test_skips(): pass
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "requirements.txt").write_text("pytest\n")
    (folder / "pyproject.toml").write_text(f'[tool.remote-ci]\npython = ["{OLD}", "{NEW}"]\n')
    (folder / "test_it.py").write_text(TEST)
    return folder


def run(developer: Developer, folder: Path, *args: str) -> Done:
    return developer.pytest(*args, cwd=folder, COLUMNS="120")


def verdicts(done: Done) -> dict[str, str]:
    """What ``-v`` says of each test."""
    return dict(re.findall(r"^(\S.*?\.py::\S+) ([A-Z]+) .*\[ *\d+%\]$", done.out, re.MULTILINE))


def cases(file: Path) -> dict[tuple[str, str], list[str]]:
    """Class and name of each case of a JUnit report → what it has in it."""
    return {
        (case.attrib["classname"], case.attrib["name"]): [child.tag for child in case]
        for case in ElementTree.parse(file).getroot().iter("testcase")
    }


@pytest.mark.every(2)
@needs_two
def test_a_session_runs_on_several_pythons(developer: Developer, suite: Path) -> None:
    done = run(developer, suite, "-v", "--junitxml=r.xml")
    assert done.code == 1, done.text
    old, new = f"py{OLD}/test_it.py::test_", f"py{NEW}/test_it.py::test_"
    assert verdicts(done) == {
        f"{old}same": "PASSED",
        f"{new}same": "PASSED",
        f"{old}fails_in_both": "FAILED",
        f"{new}fails_in_both": "FAILED",
        f"{old}differs": "PASSED",
        f"{new}differs": "FAILED",
        f"{old}skips": "SKIPPED",
        f"{new}skips": "PASSED",
    }
    assert "3 failed, 4 passed, 1 skipped" in done.out
    assert f"test_it.py::test_differs: failed with py{NEW}; passed with py{OLD}" in done.out
    assert f"test_it.py::test_skips: skipped with py{OLD}; passed with py{NEW}" in done.out
    assert "test_fails_in_both: " not in done.out.partition("remote-ci =")[2]
    assert len(cases(suite / "r.xml")) == 8

    failed_last = run(developer, suite, "-v", "--lf", f"--remote-ci-python={OLD},{NEW}")
    assert {name.partition("::test_")[2] for name in verdicts(failed_last)} == {"fails_in_both", "differs"}
    first = run(developer, suite, "-x", "-q", "-k", "both")
    assert (first.code, "stopping after 1 failures" in first.out) == (1, True), first.text
    one = run(developer, suite, "-v", f"--remote-ci-python={OLD}", "-k", "same")
    assert (one.code, verdicts(one)) == (0, {"test_it.py::test_same": "PASSED"}), one.text


@needs_two
def test_coverage_of_several_pythons_can_be_combined(developer: Developer, suite: Path) -> None:
    """With the command that a line names, into a report about the files here."""
    (suite / "requirements.txt").write_text("pytest\npytest-cov\n")
    (suite / "both.py").write_text(
        "import sys\n\ndef word():\n"
        f"    if sys.version_info[:2] == {tuple(map(int, NEW.split('.')))}:\n        return 'new'\n    return 'old'\n"
    )
    (suite / "test_it.py").write_text("import both\n\ndef test_it():\n    assert both.word()\n")
    done = run(developer, suite, "--cov=both")
    assert done.code == 0, done.text
    [command] = re.findall(r"^remote-ci: coverage of 2 jobs; combine it here with: (.*)$", done.text, re.M)
    assert re.fullmatch(r"coverage combine --keep \.remote-ci-artifacts/suite-\d+/\*/\.coverage", command)
    for words in (command, "coverage json"):
        subprocess.run(
            words.replace("coverage", f"{sys.executable} -m coverage", 1), shell=True, cwd=suite, check=True
        )
    report = json.loads((suite / "coverage.json").read_text())
    assert list(report["files"]) == ["both.py"]
    assert report["totals"]["missing_lines"] == 0


RETRIED = """
import os, pathlib

COUNTER = pathlib.Path(os.environ["COUNTER"])
TRY = len(COUNTER.read_text()) if COUNTER.exists() else 0

def test_passes():
    COUNTER.write_text("x" * (TRY + 1))
    pathlib.Path("notes.csv").write_text(str(TRY))

def test_ends():
    assert TRY
"""


def retried(developer: Developer, suite: Path, *args: str) -> Done:
    counter = suite.parent / "counter"
    counter.unlink(missing_ok=True)
    return developer.pytest(*args, cwd=suite, COLUMNS="120", COUNTER=str(counter))


def test_a_job_is_repeated_after_an_exit_code(developer: Developer, suite: Path) -> None:
    (suite / "test_it.py").write_text(RETRIED)
    (suite / "pyproject.toml").write_text(
        '[tool.remote-ci]\nenv = ["COUNTER"]\nretries = { count = 1, exit-codes = [1] }\n'
    )
    done = retried(developer, suite, "-v", "-x", "--junitxml=r.xml")
    assert done.code == 0, done.text
    assert verdicts(done) == {
        "test_it.py::test_passes": "PASSED",
        "test_it.py::test_ends": "FAILED",
        "try 2/test_it.py::test_passes": "PASSED",
        "try 2/test_it.py::test_ends": "PASSED",
    }
    assert "2 passed, 2 given up in" in done.out
    assert "tests: given up: exit code 1; trying again as try 2" in done.out
    assert cases(suite / "r.xml") == {
        ("try 2.test_it", "test_passes"): [],
        ("try 2.test_it", "test_ends"): [],
    }
    assert "1 file of the project was changed by the tests: notes.csv" in done.err
    assert "\n2 passed, 2 given up in" in retried(developer, suite, "-q", "--lf").out

    command = developer.remote_ci("submit", cwd=suite, COUNTER=str(suite.parent / "counter"))
    assert (command.code, "tests / tests: passed" in command.err) == (0, True), command.text


LOST = """
import os, pathlib, signal

COUNTER = pathlib.Path(os.environ["COUNTER"])

def parents():
    pid = os.getppid()
    while "worker" in (command := pathlib.Path(f"/proc/{pid}/cmdline").read_text()) or "supervisor" in command:
        yield pid
        pid = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

def test_passes(): pass

def test_takes_the_container_down():
    if not COUNTER.exists():
        COUNTER.write_text("x")
        for pid in list(parents()):
            os.kill(pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_job_is_repeated_after_a_fault_of_the_runner(developer: Developer, suite: Path) -> None:
    (suite / "test_it.py").write_text(LOST)
    (suite / "pyproject.toml").write_text('[tool.remote-ci]\nenv = ["COUNTER"]\n')
    done = retried(developer, suite, "-v", "-x", "--remote-ci-retries=1", "--junitxml=r.xml")
    assert done.code == 0, done.text
    assert re.search(r"^tests: given up: container lost.*; trying again as try 2$", done.out, re.MULTILINE)
    assert verdicts(done)["try 2/test_it.py::test_takes_the_container_down"] == "PASSED"
    assert set(cases(suite / "r.xml")) == {
        ("try 2.test_it", "test_passes"),
        ("try 2.test_it", "test_takes_the_container_down"),
    }
