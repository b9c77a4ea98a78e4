"""Jobs that are ended from outside in the middle of a test: that test is named, what there is is shown."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.developer import Developer, Done, outcomes, rest
from support.parallel import Ahead, ahead

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


def until_the_time_is_up(developer: Developer, folder: Path) -> Done:
    place = project(folder / "p")
    return developer.pytest("-v", "--remote-ci-timeout=12", f"--junitxml={folder}/out.xml", cwd=place)


def until_it_is_killed(developer: Developer, folder: Path) -> Done:
    text = SLEEPING.replace(
        "time.sleep(300)", "signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(300)"
    )
    place = project(folder / "p", "import signal" + text)
    (folder / "watching.py").write_text(WATCHING)
    return developer.pytest(
        "-v", "--remote-ci-timeout=12", cwd=place, PYTEST_PLUGINS="watching", PYTHONPATH=str(folder)
    )


@pytest.fixture(scope="module")
def stopped(
    developer: Developer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ahead[tuple[Done, Path]]]:
    """How these end, and their folder. They mostly wait."""

    def work(run_it: Callable[[Developer, Path], Done]) -> tuple[Done, Path]:
        folder = tmp_path_factory.mktemp("stopped")
        return run_it(developer, folder), folder

    with ahead(work, [(until_it_is_killed,), (until_the_time_is_up,)]) as results:
        yield results


def test_the_test_that_ran_when_the_time_was_up_has_failed(
    stopped: Ahead[tuple[Done, Path]], developer: Developer
) -> None:
    done, folder = stopped(until_the_time_is_up)
    assert outcomes(done) == {"test_first": "PASSED", "test_sleeps": "FAILED"}, done.text
    assert f"timed out after 12 s of testing {T}" in done.out
    assert "1 test(s) were not run" in done.out
    assert "1 failed, 1 passed" in done.out
    assert done.code == 70
    (job,) = [job for job in developer.jobs() if job["job_id"] in done.err]
    assert job["reason"] == f"timed out after 12 s of testing {T}"
    failed = [
        case.get("name")
        for case in ElementTree.parse(folder / "out.xml").iter("testcase")
        if case.find("failure") is not None
    ]
    assert failed == ["test_sleeps"]


def test_the_test_that_ran_when_somebody_cancelled_has_failed(developer: Developer, tmp_path: Path) -> None:
    folder = project(tmp_path / "p")
    process = developer.popen(
        sys.executable,
        "-m",
        "pytest",
        "--remote-ci",
        "--remote-ci-name=cancelled here",
        "-v",
        cwd=folder,
        PYTHONUNBUFFERED="1",
    )
    assert process.stdout is not None
    seen = ""
    while "test_first PASSED" not in seen:  # the runner's own time limits end this
        line = process.stdout.readline()
        assert line, seen
        seen += line
    (job,) = [job for job in developer.jobs() if job["name"] == "cancelled here"]
    assert developer.remote_ci("cancel", job["job_id"]).code == 0
    done = rest(process, seen)
    assert outcomes(done) == {"test_first": "PASSED", "test_sleeps": "FAILED"}, done.text
    assert re.search(rf"cancelled by .* {T}", done.out)
    assert "1 test(s) were not run" in done.out
    assert done.code == 70


def test_a_test_that_holds_interrupts_off_is_named_all_the_same(stopped: Ahead[tuple[Done, Path]]) -> None:
    """It is killed after the grace, and what it had printed is shown with its failure."""
    done, _ = stopped(until_it_is_killed)
    assert outcomes(done) == {"test_first": "PASSED", "test_sleeps": "FAILED"}, done.text
    assert f"timed out after 12 s of testing {T}" in done.out
    assert "Captured stdout call" in done.out
    assert "said before" in done.out
    assert "1 failed, 1 passed" in done.out
    assert done.code == 70
