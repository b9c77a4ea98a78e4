"""`pytest --remote-ci-pipeline NAME`: a run of a pipeline as the local pytest's session."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from developers import Developer, Done
from running import Runner

RUNNER_OPTIONS = ("--concurrency", "3")
pytestmark = pytest.mark.parametrize("runner", ["process"], indirect=True)

PIPELINES = """
[tool.remote-ci.pipelines.ci]
stages = ["check", "test", "late"]

[tool.remote-ci.pipelines.ci.jobs.lint]
stage = "check"
script = ["echo linting"]

[tool.remote-ci.pipelines.ci.jobs.flaky]
stage = "check"
script = ["echo it is flaky", "exit 3"]
allow-failure = true

[tool.remote-ci.pipelines.ci.jobs.tests]
stage = "test"
env = { FLAVOUR = "{flavour}" }
artifacts = ["out/**"]
matrix = { flavour = ["mint", "lime"] }

[tool.remote-ci.pipelines.ci.jobs.last]
stage = "late"
args = ["late"]
"""
TEST = """
import os, pathlib, pytest

FLAVOUR = os.environ["FLAVOUR"]

def test_one():
    pathlib.Path("out").mkdir()
    pathlib.Path("out/left.txt").write_text(FLAVOUR)

@pytest.mark.parametrize("number", [1, 2])
def test_two(number):
    assert (FLAVOUR, number) != (os.environ.get("BAD", "none"), 2)

@pytest.mark.skip(reason="not today")
def test_three(): pass
"""


@pytest.fixture(autouse=True)
def no_ci_system(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def developer(runner: Runner, tmp_path: Path) -> Developer:
    """The one user of this runner."""
    home = tmp_path / "home"
    home.mkdir()
    return Developer(runner, home, runner.key)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with a pipeline."""
    folder = tmp_path / "project"
    (folder / "late").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PIPELINES + "\n[tool.pytest.ini_options]\ntestpaths = ['early']\n")
    (folder / "requirements.txt").write_text("pytest\n")
    (folder / "early").mkdir()
    (folder / "early" / "test_it.py").write_text(TEST)
    (folder / "late" / "test_late.py").write_text("def test_late(): pass\n")
    return folder


def run(developer: Developer, folder: Path, *args: str, **env: str) -> Done:
    return developer.pytest("--remote-ci-pipeline=ci", *args, cwd=folder, COLUMNS="100", **env)


def verdicts(done: Done) -> dict[str, str]:
    """What ``-v`` says of each test."""
    return dict(
        re.findall(r"^(\S.*?\.py::\S+) ([A-Z]+(?: \(allowed\))?) .*\[ *\d+%\]$", done.out, re.MULTILINE)
    )


def cases(file: Path) -> dict[tuple[str, str], list[str]]:
    """Class and name of each case of a JUnit report → what it has in it."""
    return {
        (case.attrib["classname"], case.attrib["name"]): [child.tag for child in case]
        for case in ElementTree.parse(file).getroot().iter("testcase")
    }


def test_all_of_a_run_is_this_session(developer: Developer, folder: Path) -> None:
    done = run(developer, folder, "-v", "--junitxml=here.xml")
    assert done.code == 0, done.text
    assert verdicts(done) == {
        **{
            f"tests (flavour={flavour})/early/test_it.py::{name}": "SKIPPED"
            if name == "test_three"
            else "PASSED"
            for flavour in ("mint", "lime")
            for name in ("test_one", "test_two[1]", "test_two[2]", "test_three")
        },
        "last/late/test_late.py::test_late": "PASSED",
    }
    run_id = re.search(r"^Run ci#1: (\S+)$", done.err, re.MULTILINE)
    assert run_id, done.text
    assert done.out.splitlines()[1:6] == [
        f"pipeline: ci #1 (run {run_id[1]})",
        f"rootdir: {folder}",
        "stage check: lint, flaky",
        "stage test: tests (flavour=mint), tests (flavour=lime)",
        "stage late: last",
    ]
    assert re.search(r"^check / lint: passed  [\d.]+ s$", done.out, re.MULTILINE), done.out
    assert re.search(r"^check / flaky: failed, allowed  [\d.]+ s  exit code 3$", done.out, re.MULTILINE)
    assert "last: collected 1 item\n" in done.out
    order = [
        done.out.index(words)
        for words in ("/ lint: passed", "test_one PASSED", "/ last: running", "test_late P")
    ]
    assert order == sorted(order)
    summary = done.out.partition("= remote-ci =")[2]
    assert "✓ tests (flavour=lime)  passed" in summary
    assert "check / flaky: the end of its log" in summary
    assert "\nit is flaky\n" in summary
    assert "\nci #1 passed\n" in summary
    assert re.search(r"= 7 passed, 2 skipped in [\d.]+s =", summary), summary
    reports = cases(folder / "here.xml")
    assert len(reports) == 9
    assert ("tests (flavour=mint).early.test_it", "test_two[1]") in reports
    assert ("tests (flavour=lime).early.test_it", "test_two[1]") in reports
    left = folder / "remote-ci-artifacts" / "ci-1"
    assert {file.read_text() for file in left.glob("tests*/out/left.txt")} == {"mint", "lime"}
