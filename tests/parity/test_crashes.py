"""Tests that take pytest down: the failure is theirs, the rest runs in a pytest that is started again."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from support.developer import Developer, Done

#: What a test does → how its failure says it, and what of standard error comes with it.
CRASHES = {
    "killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL", ""),
    "segfault": (
        "import ctypes; ctypes.string_at(0)",
        "ended by SIGSEGV",
        "Fatal Python error: Segmentation fault",
    ),
    "abort": ("import os; os.abort()", "ended by SIGABRT", "Fatal Python error: Aborted"),
    "fatal": (
        "import ctypes; ctypes.pythonapi.Py_FatalError(b'broken beyond repair')",
        "ended by SIGABRT",
        "broken beyond repair",
    ),
    "exit_7": ("import os; os._exit(7)", "ended with code 7", ""),
    "exit_0": ("import os; os._exit(0)", "ended with code 0", ""),
}


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
    done = developer.pytest("-v", "--junitxml=out.xml", cwd=folder)
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


MODULE_FIXTURE = """
import os, pytest
@pytest.fixture(scope="session")
def made(tmp_path_factory):
    path = os.path.join(os.getcwd(), "made.txt")
    with open(path, "a") as file:
        file.write("made\\n")
    return open(path).read().count("made")
def test_first(made): assert made == 1
def test_dies(made):
    print("the last words")
    os._exit(3)
def test_second(made): assert made == 2
def test_fails(made): assert 0
"""


def test_fixtures_are_made_anew_and_what_was_printed_is_kept(developer: Developer, tmp_path: Path) -> None:
    done = developer.pytest("-v", cwd=project(tmp_path / "p", MODULE_FIXTURE))
    assert outcomes(done) == {
        "test_first": "PASSED",
        "test_dies": "FAILED",
        "test_second": "PASSED",
        "test_fails": "FAILED",
    }, done.text
    assert "the last words" in done.out
    assert "while running test_it.py::test_dies; it was started again for the rest" in done.out
    assert summary(done) == "2 failed, 2 passed"
    assert done.code == 1


DYING = "import os\n" + "".join(f"def test_{number}(): os._exit(0)\n" for number in range(5))


def test_what_is_left_when_restarts_are_used_up_is_said_not_to_have_run(
    developer: Developer, tmp_path: Path
) -> None:
    done = developer.pytest("-v", cwd=project(tmp_path / "p", DYING, restarts=1))
    assert outcomes(done) == {"test_0": "FAILED", "test_1": "FAILED"}
    assert "3 test(s) were not run" in done.out
    assert summary(done) == "2 failed"
    assert done.code == 1


def test_with_x_nothing_runs_after_a_crash(developer: Developer, tmp_path: Path) -> None:
    done = developer.pytest("-x", "-v", cwd=project(tmp_path / "p", DYING))
    assert outcomes(done) == {"test_0": "FAILED"}
    assert "stopping after 1 failures" in done.out
    assert "were not run" not in done.out
    assert done.code == 1


def test_maxfail_counts_crashes_and_failures_over_restarts(developer: Developer, tmp_path: Path) -> None:
    text = "import os\ndef test_0(): os._exit(0)\ndef test_1(): assert 0\ndef test_2(): pass\n"
    done = developer.pytest("--maxfail=2", "-v", cwd=project(tmp_path / "p", text))
    assert outcomes(done) == {"test_0": "FAILED", "test_1": "FAILED"}
    assert "stopping after 2 failures" in done.out
    assert done.code == 1


def test_a_file_that_takes_pytest_down_is_a_collection_error(developer: Developer, tmp_path: Path) -> None:
    done = developer.pytest(
        cwd=project(tmp_path / "p", "import ctypes; ctypes.string_at(0)\ndef test(): pass")
    )
    assert "ERROR collecting test_it.py" in done.out, done.text
    assert "pytest was ended by SIGSEGV while collecting test_it.py" in done.out
    assert "Fatal Python error: Segmentation fault" in done.out
    assert summary(done).endswith("1 error")
    assert done.code == 2


@pytest.mark.parametrize("code", ["os._exit(0)", "os.abort()"])
def test_a_conftest_that_takes_pytest_down_is_no_success(
    developer: Developer, tmp_path: Path, code: str
) -> None:
    folder = project(tmp_path / "p", "def test(): pass")
    (folder / "conftest.py").write_text(f"import os; {code}")
    done = developer.pytest(cwd=folder)
    assert done.code == 2, done.text
    assert "before its first test" in done.err


def test_an_end_of_the_process_after_the_session_is_no_success(developer: Developer, tmp_path: Path) -> None:
    text = "import os, atexit\ndef test(): atexit.register(os.abort)\n"
    done = developer.pytest(cwd=project(tmp_path / "p", text))
    assert "1 passed" in done.out, done.text
    assert "pytest was ended by SIGABRT after its tests" in done.err
    assert done.code == 1


def test_text_of_a_job_without_records_is_not_continued(developer: Developer, tmp_path: Path) -> None:
    done = developer.pytest("--remote-ci-text", "-v", cwd=project(tmp_path / "p", DYING))
    assert "test_it.py::test_0" in done.out, done.text
    assert "test_1" not in done.out
    assert done.code == 0, "as the same pytest without us: only records tell that it died"


def test_runner_and_commands_agree_on_a_crash(developer: Developer, tmp_path: Path) -> None:
    done = developer.pytest(cwd=project(tmp_path / "p", "import os\ndef test(): os._exit(0)\n"))
    job = developer.jobs()[0]
    assert (job["status"], job["success"], job["exit_code"]) == ("completed", False, 1)
    assert (
        job["reason"]
        == "pytest ended with code 0 in the middle of its session while running test_it.py::test"
    )
    text = developer.remote_ci("wait", job["job_id"])
    assert (done.code, text.code) == (1, 1), text.text


WATCHING = """
import pytest
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    with open("seen.txt", "a") as file: file.write(f"{item.name} begins\\n")
    yield
    with open("seen.txt", "a") as file: file.write(f"{item.name} ends\\n")
"""


def test_plugins_that_see_tests_from_around_them_see_crashes_too(
    developer: Developer, tmp_path: Path
) -> None:
    (tmp_path / "watching.py").write_text(WATCHING)
    text = "import os\ndef test_0(): os._exit(0)\ndef test_1(): pass\ndef test_2(): os.abort()\ndef test_3(): pass\n"
    folder = project(tmp_path / "p", text, restarts=1)
    done = developer.pytest("-v", cwd=folder, PYTEST_PLUGINS="watching", PYTHONPATH=str(tmp_path))
    assert outcomes(done) == {"test_0": "FAILED", "test_1": "PASSED", "test_2": "FAILED"}, done.text
    assert "1 test(s) were not run" in done.out
    assert done.code == 1
    seen = (folder / "seen.txt").read_text().splitlines()
    assert seen == [f"test_{number} {word}" for number in range(3) for word in ("begins", "ends")]
