"""`pytest --remote-ci` with nothing configured: the private runner of this user, from its first start to its end."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from install_wheel import built_wheel, copy_sources
from support.developer import run
from support.newcomer import Newcomer, install, with_runner
from support.runner import Runner
from support.waiting import wait_until

from pytest_remote_ci import __version__
from pytest_remote_ci.client.embedded_runner import _is_alive

WARNING = "remote-ci: no Docker engine answers"

Project = Callable[[str], Path]


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    home = tmp_path / "home"
    home.mkdir()
    found = Newcomer(home)
    yield found
    found.close()


def sleeping(folder: Path, seconds: float) -> Path:
    """A project whose one test takes a while."""
    folder.mkdir()
    (folder / "test_sleeps.py").write_text(f"import time\ndef test_sleeps():\n    time.sleep({seconds})\n")
    return folder


@pytest.mark.docker
def test_installed_with_the_extra_it_runs_in_containers_and_again_on_the_same_runner(
    newcomer: Newcomer, project: Project, tmp_path: Path
) -> None:
    """Registries may be out of reach: an image that was made on this machine will do."""
    newcomer.python = install(tmp_path / "venv", with_runner(built_wheel()))
    newcomer.engine = None
    folder = project("failing_project")

    first = newcomer.pytest(cwd=folder)
    assert first.code == 1, first.text
    assert "2 failed, 1 passed" in first.out
    assert f"rootdir: {folder}" in first.out
    assert "warning" not in first.err.lower()
    assert "no Docker engine" not in first.err
    assert "building the environment" in first.err
    said = newcomer.runner()
    assert (said["engine"], said["warning"]) == ("docker", None)
    assert (newcomer.place / "runner.json").stat().st_mode & 0o777 == 0o600

    second = newcomer.pytest("-k", "divide", cwd=folder)
    assert second.code == 1, second.text
    assert "2 failed, 1 deselected" in second.out
    assert "building the environment" not in second.err
    assert newcomer.runner() == said, "the second run uses the first one's runner"


def test_installed_without_the_extra_it_names_both_ways(newcomer: Newcomer, tmp_path: Path) -> None:
    newcomer.python = install(tmp_path / "venv", str(built_wheel()))
    done = newcomer.pytest(cwd=sleeping(tmp_path / "p", 0))
    assert done.code == 4, done.text
    (line,) = done.text.strip().splitlines()
    assert "`remote-ci login`" in line
    assert "`pip install 'pytest-remote-ci[runner]'`" in line
    assert not newcomer.place.exists()


@pytest.mark.every(2)
def test_a_new_version_has_a_folder_and_a_runner_of_its_own(newcomer: Newcomer, tmp_path: Path) -> None:
    newcomer.python = install(tmp_path / "venv", with_runner(built_wheel()))
    folder = sleeping(tmp_path / "p", 0)
    assert newcomer.pytest(cwd=folder).code == 0
    old = newcomer.runner()

    newer = tmp_path / "newer"
    copy_sources(newer)
    for file in (newer / "pyproject.toml", newer / "pytest_remote_ci" / "__init__.py"):
        file.write_text(re.sub(r'(?m)^((?:__)?version(?:__)? = ").*"', r'\g<1>99.0"', file.read_text()))
    install(tmp_path / "venv", with_runner(newer))
    other = Newcomer(newcomer.home, python=newcomer.python, version="99.0")
    assert other.pytest(cwd=folder).code == 0
    assert other.runner()["version"] == "99.0"
    assert other.runner()["pid"] != old["pid"]
    assert newcomer.runner() == old, "the old version's runner was left alone"


def test_without_an_engine_it_warns_once_and_the_results_are_the_same(
    newcomer: Newcomer, project: Project
) -> None:
    for name, code, words in (
        ("dummy_project", 0, "2 passed"),
        ("failing_project", 1, "2 failed, 1 passed"),
        ("invalid_project", 2, "SyntaxError"),
    ):
        done = newcomer.pytest(cwd=project(name))
        assert done.code == code, done.text
        assert words in done.out
        assert done.text.count(WARNING) == 1
        assert done.err.startswith(WARNING)
    assert newcomer.runner()["engine"] == "process"
    assert newcomer.log().count("serve 0") == 1, "one runner for all three"


def test_two_first_runs_at_once_start_one_runner(newcomer: Newcomer, tmp_path: Path) -> None:
    folder = sleeping(tmp_path / "p", 0)
    processes = [newcomer.popen(cwd=folder) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
        assert "1 passed" in out
    assert newcomer.log().count("listening on") == 1
    assert newcomer.job()["status"] == "completed"


@pytest.mark.every(2)
def test_it_ends_when_idle_but_not_with_a_job_unfinished_and_its_results_stay(
    newcomer: Newcomer, tmp_path: Path
) -> None:
    seconds = 4.0
    began = time.monotonic()
    done = newcomer.pytest(
        "--remote-ci-async", cwd=sleeping(tmp_path / "p", seconds), CI_RUNNER_IDLE_EXIT="0.5"
    )
    assert done.code == 0, done.text
    job = done.out.strip().removeprefix("Job submitted: ")
    pid = int(newcomer.runner()["pid"])
    wait_until(lambda: not _is_alive(pid), 60, what="the idle runner's end")
    assert time.monotonic() - began > seconds
    assert newcomer.announced() is None
    assert f"job {job}: completed (exit code 0)" in newcomer.log()

    attached = run(
        [newcomer.python, "-m", "pytest", f"--remote-ci-attach={job}"], cwd=tmp_path, env=newcomer.environ()
    )
    assert attached.code == 0, attached.text
    assert "1 passed" in attached.out
    assert newcomer.runner()["pid"] != pid


def test_a_killed_runner_is_replaced_and_its_job_goes_on(newcomer: Newcomer, tmp_path: Path) -> None:
    waiting = newcomer.popen(cwd=sleeping(tmp_path / "p", 6))
    wait_until(lambda: newcomer.announced() is not None, 60, what="the first runner")
    wait_until(lambda: newcomer.job()["phase"] == "testing", 60, what="the test to run")
    job, killed = newcomer.job()["job_id"], newcomer.runner()
    waiting.kill()
    os.kill(int(killed["pid"]), signal.SIGKILL)
    wait_until(lambda: not _is_alive(int(killed["pid"])), 10, what="the runner's end")
    assert newcomer.runner() == killed, "it could not take its announcement along"

    done = newcomer.pytest(f"--remote-ci-attach={job}", cwd=tmp_path)
    assert done.code == 0, done.text
    assert "1 passed" in done.out
    assert newcomer.runner()["pid"] != killed["pid"]
    assert newcomer.runner()["key"] != killed["key"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("pid", [os.getpid(), 2**22 - 1], ids=["somebody else's process", "no process"])
def test_a_stale_announcement_is_replaced(newcomer: Newcomer, tmp_path: Path, pid: int) -> None:
    newcomer.place.mkdir(parents=True)
    said = {"url": "http://127.0.0.1:9", "key": "k", "pid": pid, "version": __version__}
    (newcomer.place / "runner.json").write_text(json.dumps(said))
    done = newcomer.pytest(cwd=sleeping(tmp_path / "p", 0))
    assert done.code == 0, done.text
    assert newcomer.runner()["url"] != said["url"]


def test_with_a_key_a_runner_at_the_usual_address_is_taken_instead(
    newcomer: Newcomer, start_runner: Callable[..., Runner], tmp_path: Path
) -> None:
    """The address is another one here, for the usual port may be somebody's."""
    runner = start_runner("process")
    code = (
        "import sys, pytest\nfrom pytest_remote_ci.client import embedded_runner as embedded\n"
        f"embedded.DEFAULT_URL = {runner.url!r}\nsys.exit(pytest.main(['--remote-ci']))"
    )
    done = run(
        [newcomer.python, "-c", code],
        cwd=sleeping(tmp_path / "p", 0),
        env=newcomer.environ(REMOTE_CI_API_KEY=runner.key),
    )
    assert done.code == 0, done.text
    assert "1 passed" in done.out
    assert runner.get("/jobs")[0]["status"] == "completed"
    assert not newcomer.place.exists(), "no runner of one's own was started"
