"""Cases of the JUnit report for jobs without tests."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

CONFTEST = """
import pytest
from pytest_remote_ci.replay.pytest_internals import add_junit_error

@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    add_junit_error(session.config, "ci/check::lint [a=1]", "exit code 3", "exit code 3\\n\\x1b[31mred & <b>", 1.5)
"""


def test_a_job_that_failed_is_a_case_with_an_error(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile("def test_a(): pass")
    done = pytester.runpytest_inprocess("--junitxml=here.xml", "-p", "no:cacheprovider")
    done.assert_outcomes(passed=1)
    (suite,) = ElementTree.parse(pytester.path / "here.xml").getroot()
    assert (suite.get("tests"), suite.get("errors"), suite.get("failures")) == ("2", "1", "0")
    case = next(case for case in suite.iter("testcase") if case.get("classname") == "ci.check")
    assert (case.get("name"), case.get("time")) == ("lint [a=1]", "1.500")
    (error,) = case
    assert (error.tag, error.get("message")) == ("error", "exit code 3")
    assert "red & <b>" in str(error.text)


def test_without_a_report_nothing_happens(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile("def test_a(): pass")
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
