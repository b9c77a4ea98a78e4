"""The product without containers: jobs as plain processes of the runner's machine, for its one user."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.developer import Developer, interrupt, make_developer
from support.runner import Runner
from support.waiting import wait_until

Project = Callable[[str], Path]

pytestmark = pytest.mark.parametrize("runner", ["process"], indirect=True)


@pytest.fixture(autouse=True)
def nothing_is_left(runner: Runner) -> Iterator[None]:
    """No process of a job outlives it, and its folders go."""
    yield
    wait_until(lambda: not processes_of(runner), 20, what="the end of all processes of jobs")
    wait_until(lambda: not list((runner.data_dir / "work").iterdir()), 20, what="the working folders to go")


def processes_of(runner: Runner) -> list[str]:
    """Command lines of processes that run inside this runner's data directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            inside = (entry / "cwd").readlink().is_relative_to(runner.data_dir / "work")
            if inside:
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def make(folder: Path, test: str) -> Path:
    """A project with one test file."""
    folder.mkdir()
    (folder / "test_it.py").write_text(test)
    return folder


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("name", "args", "code", "words"),
    [
        ("dummy_project", [], 0, ["2 passed"]),
        ("failing_project", [], 1, ["2 failed, 1 passed", "tests/test_math_ops.py:"]),
        ("invalid_project", [], 2, ["SyntaxError"]),
        ("failing_project", ["-k", "multiply", "-q"], 0, ["1 passed, 2 deselected"]),
        ("failing_project", ["tests/test_math_ops.py::test_divide", "-x"], 1, ["1 failed"]),
        ("dummy_project", ["-k", "nothing"], 5, ["2 deselected"]),
        ("dummy_project", ["--no-such-option"], 4, ["unrecognized arguments"]),
    ],
)
def test_results_and_exit_codes_are_pytests_own(
    developer: Developer, project: Project, name: str, args: list[str], code: int, words: list[str]
) -> None:
    done = developer.pytest(*args, cwd=project(name))
    assert done.code == code, done.text
    for word in words:
        assert word in done.text


def test_paths_in_the_output_are_relative_or_those_of_the_copy_that_ran(
    developer: Developer, project: Project
) -> None:
    """Nothing can be mounted, so the tests see the place where they really run; arguments are put there, too."""
    folder = project("failing_project")
    done = developer.pytest(
        "--remote-ci-text", "--tb=short", str(folder / "tests" / "test_math_ops.py"), cwd=folder
    )
    assert done.code == 1, done.text
    rootdir = re.search(r"rootdir: (\S+)", done.out)
    assert rootdir
    assert Path(rootdir[1]).is_relative_to(developer.runner.data_dir / "work")
    assert re.search(r"^tests/test_math_ops\.py:\d+: in test_divide$", done.out, re.MULTILINE)


def test_started_in_a_subdirectory_it_runs_there(developer: Developer, project: Project) -> None:
    folder = project("dummy_project")
    (folder / "tests" / "test_here.py").write_text(
        "import os\ndef test_here():\n    assert os.path.basename(os.getcwd()) == 'tests'\n"
    )
    done = developer.pytest("test_here.py", cwd=folder / "tests")
    assert done.code == 0, done.text


def test_attaching_to_a_job_that_is_over_shows_all_of_it(developer: Developer, project: Project) -> None:
    sent = developer.pytest("--remote-ci-async", cwd=project("failing_project"))
    assert sent.code == 0, sent.text
    job = sent.out.strip().removeprefix("Job submitted: ")
    wait_until(lambda: developer.jobs()[0]["status"] == "completed", 60, what="the job's end")
    done = developer.pytest(f"--remote-ci-attach={job}", cwd=developer.home)
    assert done.code == 1, done.text
    assert "test session starts" in done.out
    assert "2 failed, 1 passed" in done.out
    shown = json.loads(developer.remote_ci("show", job, "--json").out)
    assert (shown["status"], shown["success"], shown["exit_code"]) == ("completed", False, 1)


#: Starts children in every way in which one may escape its parent.
FAMILY = """
import os, subprocess, sys, time
SLEEP = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"]
def test_family():
    subprocess.Popen(SLEEP)
    subprocess.Popen(SLEEP, start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(SLEEP[0], SLEEP)
        os._exit(0)
    time.sleep(300)
"""


def test_ctrl_c_cancels_the_job_and_ends_every_process_of_it(developer: Developer, tmp_path: Path) -> None:
    process = developer.popen(sys.executable, "-m", "pytest", "--remote-ci", cwd=make(tmp_path / "p", FAMILY))

    def family() -> list[str]:
        return [line for line in processes_of(developer.runner) if "time.sleep(300)" in line]

    wait_until(lambda: len(family()) == 3, 60, what="the whole family")
    done = interrupt(process)
    assert done.code == 2, done.text
    assert "cancel" in done.text.lower()
    assert "Traceback" not in done.text
    assert developer.jobs()[0]["status"] == "cancelled"
    wait_until(lambda: family() == [], 20, what="the family's end")


def test_what_a_test_leaves_running_ends_with_its_job(developer: Developer, tmp_path: Path) -> None:
    folder = make(tmp_path / "p", FAMILY.replace("    time.sleep(300)\n", "    time.sleep(0.1)\n"))
    assert developer.pytest(cwd=folder).code == 0


def test_a_test_that_runs_too_long(developer: Developer, tmp_path: Path) -> None:
    began = time.monotonic()
    done = developer.pytest("--remote-ci-timeout=12", cwd=make(tmp_path / "p", FAMILY))
    assert done.code == 70, done.text
    assert "timed out after 12 s" in done.err
    assert (developer.jobs()[0]["status"], developer.jobs()[0]["success"]) == ("failed", False)
    assert time.monotonic() - began < 60


def test_a_test_that_leaves_with_os_exit(developer: Developer, tmp_path: Path) -> None:
    done = developer.pytest(cwd=make(tmp_path / "p", "import os\ndef test_leaves():\n    os._exit(7)\n"))
    job = developer.jobs()[0]
    assert (job["status"], job["success"]) == ("completed", False), job
    assert done.code == 1
    assert (
        "ended with code 7 in the middle of its session while running test_it.py::test_leaves" in done.out
    ), done.text


def test_a_test_that_kills_its_process(developer: Developer, tmp_path: Path) -> None:
    done = developer.pytest(
        cwd=make(tmp_path / "p", "import os\ndef test_dies():\n    os.kill(os.getpid(), 9)\n")
    )
    assert done.code == 1, done.text
    job = developer.jobs()[0]
    assert (job["status"], job["success"], job["exit_code"]) == ("completed", False, 1)
    assert "SIGKILL" in str(job["reason"])
    assert "SIGKILL" in done.out


def test_a_container_image_is_refused_in_words(developer: Developer, tmp_path: Path) -> None:
    folder = make(tmp_path / "p", "def test(): pass\n")
    done = developer.pytest("--remote-ci-image=debian:12", cwd=folder)
    assert done.code == 70, done.text
    assert "without a container engine" in done.err


def test_once_there_is_a_second_user_no_job_runs_until_that_one_is_gone(
    developer: Developer, tmp_path: Path
) -> None:
    """And a controller that is started then does not start."""
    runner = developer.runner
    folder = make(tmp_path / "p", "def test(): pass\n")
    second = make_developer(runner, tmp_path)
    for who in (developer, second):
        done = who.pytest(cwd=folder)
        assert done.code == 70, done.text
        assert "does not isolate users from each other" in done.err
    runner.stop("reconcile")
    command = [sys.executable, "-m", "ci_runner", "reconcile", "--engine", "process"]
    command += ["--data-dir", str(runner.data_dir)]
    started = subprocess.run(
        command, cwd=tmp_path, env=runner.environment(), capture_output=True, text=True, timeout=60
    )
    assert started.returncode == 2, started.stderr
    assert "more than one: use Docker, or deactivate the others" in started.stderr.splitlines()[-1]

    (other,) = [user for user in runner.admin("user", "list") if user["id"] != runner.user_id]
    runner.admin("user", "deactivate", other["id"])
    runner.start_reconcile()
    done = developer.pytest(cwd=folder)
    assert done.code == 0, done.text


def test_what_a_run_leaves_comes_home_and_speaks_of_the_files_here(
    developer: Developer, tmp_path: Path
) -> None:
    """The project lies elsewhere for the run, so coverage data speaks of other paths; what was sent is no artifact."""
    folder = make(
        tmp_path / "leaving",
        "import pathlib\n"
        "def test_it():\n    pathlib.Path('new.txt').write_text('1')\n    pathlib.Path('old.txt').write_text('2')\n",
    )
    (folder / "requirements.txt").write_text("pytest\npytest-cov\n")
    for name in ("old.txt", "same.txt"):
        (folder / name).write_text("1")
    done = developer.pytest("--cov=.", "--remote-ci-artifact", "*.txt", cwd=folder)
    assert done.code == 0, done.text
    assert "fetched: .coverage" in done.err
    with sqlite3.connect(folder / ".coverage") as connection:
        assert connection.execute("SELECT path FROM file").fetchall() == [(str(folder / "test_it.py"),)]
    connection.close()
    [kept] = (folder / ".remote-ci-artifacts").glob("*-*")
    assert {path.name for path in kept.iterdir()} == {"new.txt", "old.txt"}


@pytest.mark.defect("A16")
def test_the_projects_own_dockerfile_is_a_file_like_any_other(developer: Developer, tmp_path: Path) -> None:
    test = (
        "from pathlib import Path\n"
        "def test_it():\n"
        "    here = Path(__file__).parent\n"
        "    assert (here / 'Dockerfile').read_text() == 'FROM scratch\\n'\n"
        "    assert (here / '.dockerignore').read_text() == '*\\n'\n"
        "    assert (here / 'data.txt').read_text() == 'sent all the same'\n"
    )
    folder = make(tmp_path / "p", test)
    (folder / "Dockerfile").write_text("FROM scratch\n")
    (folder / ".dockerignore").write_text("*\n")
    (folder / "data.txt").write_text("sent all the same")
    done = developer.pytest("-q", cwd=folder)
    assert done.code == 0, done.text
    assert "1 passed" in done.out
    assert (folder / "Dockerfile").read_text() == "FROM scratch\n"
