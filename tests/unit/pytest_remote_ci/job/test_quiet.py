"""What a test that only passed leaves among the records, and when: little, and before anything else happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_remote_ci.job import boot
from pytest_remote_ci.wire.records import VERSION, Passed

TWO = "def test_a():\n    pass\n\ndef test_b():\n    pass\n"
#: Says what is recorded when it runs.
SPIES = """
import json, os
def passed():
    with open(os.environ["SPOOL"] + "/records") as file:
        lines = [json.loads(line) for line in file.read().splitlines()]
    parts = [part for line in lines for part in line.get("of", [line])]
    return any(part["t"] == "passed" and part["when"] == "call" for part in parts)
"""


def lines_of(folder: Path, tests: str, *args: str, conftest: str = "") -> list[dict[str, Any]]:
    """The lines of records of a session in `folder`."""
    spool = folder / "spool"
    spool.mkdir()
    (folder / "test_them.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(conftest)
    hidden = ("PYTEST_", "REMOTE_CI_", "COV_", "COVERAGE_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    with (spool / "stdout").open("ab") as out, (spool / "stderr").open("ab") as err:
        plugins = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:remote_ci"]
        done = subprocess.run(
            [sys.executable, boot.__file__, "module", *plugins, *args],
            cwd=folder,
            stdout=out,
            stderr=err,
            timeout=60,
            check=False,
            env={**environ, "REMOTE_CI_RECORDS": str(spool), "SPOOL": str(spool)},
        )
    assert done.returncode == 0, (spool / "terminal").read_text()
    return [json.loads(line) for line in (spool / "records").read_text().splitlines()]


def kinds(line: dict[str, Any]) -> str:
    return " ".join(part["t"] for part in line.get("of", [line]))


def of_tests(lines: list[dict[str, Any]]) -> list[str]:
    wanted = ("started", "passed", "report", "finished")
    return [kinds(line) for line in lines if line.get("of") or line["t"] in wanted]


def test_a_test_is_one_record_from_its_start_to_the_next_one(tmp_path: Path) -> None:
    assert of_tests(lines_of(tmp_path, TWO)) == [
        "started",
        "passed passed passed finished started",
        "passed passed",
        "passed finished",
    ]


def test_what_is_said_once_is_not_said_again(tmp_path: Path) -> None:
    parts = [part for line in lines_of(tmp_path, TWO) for part in line.get("of", [line])]
    started, (setup, call, teardown) = (
        next(part for part in parts if part["t"] == "started"),
        [part for part in parts if part["t"] == "passed" and part["id"] == "test_them.py::test_a"],
    )
    assert setup.keys() == {"t", "id", "when", "duration", "start", "stop", "keywords"}
    assert call.keys() == teardown.keys() == setup.keys() - {"keywords"}
    assert setup["keywords"][0] == "test_a"
    assert started["location"] == ["test_them.py", 0, "test_a"]


FIXTURE = """
import pytest
from conftest import passed
@pytest.fixture
def it():
    yield
    assert passed()
def test_a(it):
    pass
def test_b():
    pass
"""
FUNCTION = f"from conftest import passed\ndef teardown_function():\n    assert passed()\n{TWO}"
HOOK = f"{SPIES}\ndef pytest_runtest_teardown():\n    assert passed()\n"
WRAPPER = f"""{SPIES}
import pytest
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol():
    yield
    assert passed()
"""
CLASS = """
from conftest import passed
class TestIt:
    def teardown_class(self):
        assert passed()
    def test_a(self):
        pass
def test_b():
    pass
"""
UNITTEST = """
import unittest
class TestIt(unittest.TestCase):
    def test_a(self):
        pass
    def test_b(self):
        pass
"""
LATER = {
    "a fixture's end": (FIXTURE, SPIES),
    "a function of the module": (FUNCTION, SPIES),
    "a hook of a conftest": (TWO, HOOK),
    "a hook around it": (TWO, WRAPPER),
    "the end of a class": (CLASS, SPIES),
    "unittest": (UNITTEST, SPIES),
}


@pytest.mark.parametrize(("tests", "conftest"), LATER.values(), ids=LATER)
def test_a_result_is_there_before_anything_of_the_project_runs(
    tmp_path: Path, tests: str, conftest: str
) -> None:
    told = of_tests(lines_of(tmp_path, tests, conftest=conftest))
    assert "passed passed" in told
    assert "passed passed passed finished started" not in told


ONE = "def test_a():\n    pass\n"
PRINTS = "def test_a():\n    print('x')\n"
PROPERTY = "def test_a(record_property):\n    record_property('a', 1)\n"
ADDS = """
import pytest
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    result = yield
    result.get_result().extra = 1
"""
STATUS = """
def pytest_report_teststatus(report):
    if report.when == "call":
        return "fine", "f", "FINE"
"""
MARKED = """
def pytest_report_teststatus(report):
    if report.when == "call":
        return "passed", ".", ("FINE", {"blue": True})
"""
USUAL = """
def pytest_report_teststatus(report):
    if report.when == "call":
        return "passed", ".", "PASSED"
"""
SERIALISES = "def pytest_report_to_serializable():\n    pass\n"
MORE = {
    "output": (PRINTS, "", "passed report report finished"),
    "a property": (PROPERTY, "", "passed report report finished"),
    "a part that a plugin adds": (ONE, ADDS, "report report report finished"),
    "a status that a conftest gives": (ONE, STATUS, "passed report passed finished"),
    "a status in colour": (ONE, MARKED, "passed report passed finished"),
    "a status that is the usual one": (ONE, USUAL, "passed passed passed finished"),
    "a serialisation of its own": (ONE, SERIALISES, "report report report finished"),
}


@pytest.mark.parametrize(("tests", "conftest", "told"), MORE.values(), ids=MORE)
def test_whatever_else_is_to_be_said_is_said(tmp_path: Path, tests: str, conftest: str, told: str) -> None:
    lines = of_tests(lines_of(tmp_path, tests, conftest=conftest))
    assert " ".join(lines) == f"started {told}"


def test_the_version_of_the_records_says_that_phases_may_be_short() -> None:
    assert VERSION == Passed.since == 2
