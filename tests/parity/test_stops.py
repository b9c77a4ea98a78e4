"""Jobs that are ended from outside in the middle of a test: that test is named, what there is is shown."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from developers import Developer, outcomes, rest

SLEEPING = """
import time
def test_first(): pass
def test_sleeps():
    print("said before")
    time.sleep(300)
def test_last(): pass
"""
#: A plugin that makes the local session go through `pytest_runtest_protocol`.
WATCHING = """
import pytest
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item): yield
"""
T = "while running test_it.py::test_sleeps"


def project(folder: Path, text: str = SLEEPING) -> Path:
    folder.mkdir()
    (folder / "test_it.py").write_text(text)
    return folder


def test_the_test_that_ran_when_the_time_was_up_has_failed(developer: Developer, tmp_path: Path) -> None:
    folder = project(tmp_path / "p")
    done = developer.pytest("-v", "--remote-ci-timeout=3", "--junitxml=out.xml", cwd=folder)
    assert outcomes(done) == {"test_first": "PASSED", "test_sleeps": "FAILED"}, done.text
    assert f"timed out after 3 s of testing {T}" in done.out
    assert "1 test(s) were not run" in done.out
    assert "1 failed, 1 passed" in done.out
    assert done.code == 70
    reason = developer.jobs()[0]["reason"]
    assert reason == f"timed out after 3 s of testing {T}"
    failed = [
        case.get("name")
        for case in ElementTree.parse(folder / "out.xml").iter("testcase")
        if case.find("failure") is not None
    ]
    assert failed == ["test_sleeps"]


def test_the_test_that_ran_when_somebody_cancelled_has_failed(developer: Developer, tmp_path: Path) -> None:
    folder = project(tmp_path / "p")
    process = developer.popen(
        sys.executable, "-m", "pytest", "--remote-ci", "-v", cwd=folder, PYTHONUNBUFFERED="1"
    )
    assert process.stdout is not None
    seen = ""
    while "test_first PASSED" not in seen:  # the runner's own time limits end this
        line = process.stdout.readline()
        assert line, seen
        seen += line
    assert developer.remote_ci("cancel", developer.jobs()[0]["job_id"]).code == 0
    done = rest(process, seen)
    assert outcomes(done) == {"test_first": "PASSED", "test_sleeps": "FAILED"}, done.text
    assert re.search(rf"cancelled by .* {T}", done.out)
    assert "1 test(s) were not run" in done.out
    assert done.code == 70


def test_a_test_that_holds_interrupts_off_is_named_all_the_same(developer: Developer, tmp_path: Path) -> None:
    """It is killed after the grace, and what it had printed is shown with its failure."""
    text = SLEEPING.replace(
        "time.sleep(300)", "signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(300)"
    )
    folder = project(tmp_path / "p", "import signal" + text)
    (tmp_path / "watching.py").write_text(WATCHING)
    done = developer.pytest(
        "-v", "--remote-ci-timeout=2", cwd=folder, PYTEST_PLUGINS="watching", PYTHONPATH=str(tmp_path)
    )
    assert outcomes(done) == {"test_first": "PASSED", "test_sleeps": "FAILED"}, done.text
    assert f"timed out after 2 s of testing {T}" in done.out
    assert "Captured stdout call" in done.out
    assert "said before" in done.out
    assert "1 failed, 1 passed" in done.out
    assert done.code == 70
