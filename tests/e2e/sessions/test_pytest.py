"""`pytest --remote-ci` as developers type it: arguments, exit codes, places, interruption."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.developer import Developer, interrupt

pytestmark = pytest.mark.docker

Project = Callable[[str], Path]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A project with every kind of outcome and a marker."""
    folder = tmp_path / "suite"
    (folder / "tests" / "deep").mkdir(parents=True)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow\naddopts = --remote-ci-name=from-ini\n")
    (folder / "tests" / "test_kinds.py").write_text(
        "import pytest\n"
        "def test_passes():\n    pass\n"
        "def test_fails():\n    assert 1 == 2\n"
        "@pytest.mark.slow\ndef test_marked():\n    pass\n"
        "@pytest.mark.skip(reason='not now')\ndef test_skipped():\n    pass\n"
        "@pytest.mark.xfail\ndef test_xfails():\n    assert 0\n"
    )
    (folder / "tests" / "deep" / "test_deep.py").write_text(
        "import os\ndef test_here():\n    assert os.path.basename(os.getcwd()) == 'deep'\n"
    )
    return folder


CASES = [
    pytest.param(["-k", "passes or skipped"], 0, "1 passed, 1 skipped", id="-k selects; all well is 0"),
    pytest.param(["-m", "slow"], 0, "1 passed", id="-m selects"),
    pytest.param(["tests/test_kinds.py::test_fails"], 1, "1 failed", id="a node id; a failure is 1"),
    pytest.param(["tests/test_kinds.py", "-x", "-q"], 1, "1 failed, 1 passed", id="-x stops after the first"),
    pytest.param(["--no-such-option"], 4, "unrecognized arguments", id="a wrong option is 4"),
    pytest.param(["-k", "nothing_matches"], 5, "deselected", id="no tests is 5"),
    pytest.param(["no_such_file.py"], 4, "not found", id="a missing file is 4"),
    pytest.param(["tests/test_kinds.py", "--durations=1", "-vv"], 1, "slowest", id="--durations and -vv"),
    pytest.param(
        ["-o", "python_functions=check_*", "tests/test_kinds.py"],
        5,
        "no tests ran",
        id="-o overrides the ini file",
    ),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("args", "code", "words"), CASES)
def test_arguments_reach_the_remote_pytest_and_its_exit_code_comes_back(
    developer: Developer, suite: Path, args: list[str], code: int, words: str
) -> None:
    done = developer.pytest(*args, cwd=suite)
    assert done.code == code, done.text
    assert words in done.text


def test_an_error_while_collecting_is_2(developer: Developer, project: Project) -> None:
    done = developer.pytest(cwd=project("invalid_project"))
    assert done.code == 2, done.text
    assert "SyntaxError" in done.out


def test_an_internal_error_is_3(developer: Developer, suite: Path) -> None:
    (suite / "conftest.py").write_text(
        "def pytest_sessionstart():\n    raise ValueError('broken on purpose')\n"
    )
    done = developer.pytest(cwd=suite)
    assert done.code == 3, done.text
    assert "broken on purpose" in done.text


def test_started_in_a_subdirectory_it_runs_there_with_the_whole_project(
    developer: Developer, suite: Path
) -> None:
    done = developer.pytest("test_deep.py", cwd=suite / "tests" / "deep")
    assert done.code == 0, done.text
    assert "1 passed" in done.out


def test_nothing_of_the_project_is_imported_here(developer: Developer, suite: Path) -> None:
    (suite / "requirements.txt").write_text("pytest\niniconfig\n")
    (suite / "conftest.py").write_text(
        "import os\n"
        "if not os.path.isdir('/ci/tools'):\n"
        "    raise SystemExit('imported on the developer\\'s side')\n"
    )
    done = developer.pytest("-k", "passes", cwd=suite)
    assert done.code == 0, done.text
    assert "imported on" not in done.text


@pytest.mark.every(2)
def test_colours_are_those_of_the_local_choice(developer: Developer, suite: Path) -> None:
    coloured = developer.pytest("-k", "passes", "--color=yes", cwd=suite)
    assert "\x1b[32m" in coloured.out
    assert "\x1b[" not in developer.pytest("-k", "passes", cwd=suite).out


def test_async_then_attach(developer: Developer, suite: Path) -> None:
    sent = developer.pytest("--remote-ci-async", "tests/test_kinds.py", cwd=suite)
    assert sent.code == 0, sent.text
    job = re.search(r"Job submitted: ([0-9a-f-]{36})", sent.out)
    assert job, sent.text
    done = developer.pytest(f"--remote-ci-attach={job[1]}", cwd=suite)
    assert done.code == 1, done.text
    assert "test session starts" in done.out
    assert "1 failed, 2 passed, 1 skipped, 1 xfailed" in done.out


def test_ctrl_c_cancels_the_job_and_exits_2(developer: Developer, tmp_path: Path) -> None:
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "test_slow.py").write_text("import time\ndef test_slow():\n    time.sleep(60)\n")
    process = developer.popen(sys.executable, "-m", "pytest", "--remote-ci", cwd=folder)
    assert process.stdout is not None
    while "collected" not in (
        line := process.stdout.readline()
    ):  # a Python that still starts has a traceback
        assert line, process.communicate()
    done = interrupt(process)
    assert done.code == 2, done.text
    assert "cancel" in done.text.lower()
    assert "Traceback" not in done.text
    assert developer.jobs()[0]["status"] == "cancelled"


@pytest.mark.case(69, 72)
def test_a_runner_that_is_not_there_is_69_in_one_line(developer: Developer, suite: Path) -> None:
    done = developer.pytest(cwd=suite, REMOTE_CI_URL=f"http://127.0.0.1:{1}")
    assert done.code == 69, done.text
    assert "Traceback" not in done.text
    assert len(done.err.strip().splitlines()) == 1


def test_environment_variables_are_passed_by_name(developer: Developer, tmp_path: Path) -> None:
    folder = tmp_path / "env"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[tool.remote-ci]\nenv = ["WANTED"]\n')
    (folder / "test_env.py").write_text(
        "import os\n"
        "def test_env():\n"
        "    assert os.environ['WANTED'] == 'a b'\n"
        "    assert 'UNWANTED' not in os.environ\n"
    )
    done = developer.pytest(cwd=folder, WANTED="a b", UNWANTED="x")
    assert done.code == 0, done.text


def test_a_mistyped_key_is_an_error_that_names_the_nearest(developer: Developer, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.remote-ci]\nimgae = "x"\n')
    done = developer.pytest(cwd=tmp_path)
    assert done.code == 4, done.text
    assert "imgae" in done.text
    assert "image" in done.text
    assert "pyproject.toml" in done.text


def test_pdb_is_refused_before_anything_is_sent(developer: Developer, suite: Path) -> None:
    done = developer.pytest("--pdb", cwd=suite)
    assert done.code == 4, done.text
    assert developer.jobs() == []


def test_the_workspace_sits_at_the_developers_own_path(developer: Developer, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "test_path.py").write_text(
        f"def test_path():\n    assert __file__ == {str(folder / 'test_path.py')!r}\n"
    )
    done = developer.pytest(cwd=folder)
    assert done.code == 0, done.text
