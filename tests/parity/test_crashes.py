"""Tests that take pytest down: the failure is theirs, the rest runs in a pytest that is started again."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from developers import Developer, Done

NATIVE = ("--remote-ci-native",)
#: What a test does → how its failure says it, and what of standard error comes with it.
CRASHES = {
    "killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL", ""),
    "segfault": ("import ctypes; ctypes.string_at(0)", "ended by SIGSEGV", "Fatal Python error: Segmentation fault"),
    "abort": ("import os; os.abort()", "ended by SIGABRT", "Fatal Python error: Aborted"),
    "fatal": (
        "import ctypes; ctypes.pythonapi.Py_FatalError(b'broken beyond repair')", "ended by SIGABRT",
        "broken beyond repair",
    ),
    "exit_7": ("import os; os._exit(7)", "ended with code 7", ""),
    "exit_0": ("import os; os._exit(0)", "ended with code 0", ""),
}  # fmt: skip


def project(folder: Path, text: str, restarts: int | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "test_it.py").write_text(text)
    if restarts is not None:
        (folder / "pyproject.toml").write_text(f"[tool.remote-ci]\nrestarts = {restarts}\n")
    return folder


def outcomes(done: Done) -> dict[str, str]:
    """Of a verbose session: test → its word."""
    return dict(re.findall(r"^test_it\.py::(\S+) (\w+) ", done.out, re.MULTILINE))


def summary(done: Done) -> str:
    return re.sub(r" in [\d.]+s.*", "", done.out.rstrip().splitlines()[-1].strip("= "))


@pytest.fixture(scope="module")
def crashed(developer: Developer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, dict[str, str]]:
    """One session in which every kind of crash happens between two good tests; its JUnit file's failures."""
    parts = ["def test_first(): pass\n"]
    for name, (code, _, _) in CRASHES.items():
        parts.append(f"def test_{name}(): {code}\ndef test_after_{name}(): pass\n")
    folder = project(tmp_path_factory.mktemp("crashes") / "p", "".join(parts), restarts=9)
    done = developer.pytest(*NATIVE, "-v", "--junitxml=out.xml", cwd=folder)
    failures = {}
    for case in ElementTree.parse(folder / "out.xml").iter("testcase"):
        for failure in case.findall("failure"):
            failures[case.get("name", "")] = failure.text or ""
    return done, failures


@pytest.mark.parametrize("name", CRASHES)
def test_a_crash_is_a_failure_of_the_test_that_did_it(
    crashed: tuple[Done, dict[str, str]], name: str
) -> None:
    done, failures = crashed
    _, words, tail = CRASHES[name]
    assert outcomes(done)[f"test_{name}"] == "FAILED", done.text
    text = failures[f"test_{name}"]
    assert words in text
    assert f"while running test_it.py::test_{name}" in text
    assert tail in done.out


def test_the_others_run_each_once_and_count_as_in_one_session(crashed: tuple[Done, dict[str, str]]) -> None:
    done, _ = crashed
    assert done.code == 1, done.text
    good = [name for name, word in outcomes(done).items() if word == "PASSED"]
    assert good == ["test_first", *(f"test_after_{name}" for name in CRASHES)]
    assert summary(done) == f"{len(CRASHES)} failed, {len(good)} passed"
    assert done.out.count("test session starts") == 1
    assert done.out.count("collected 13 items") == 1
    percents = [int(text) for text in re.findall(r"\[ *(\d+)%\]", done.out)]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert "were not run" not in done.out
