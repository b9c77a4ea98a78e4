"""Jobs that take a container which was started before them: what they see, and what a crash leaves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.developer import FIXTURES, Developer
from support.runner import Runner
from support.waiting import wait_until

Start = Callable[..., Runner]
pytestmark = pytest.mark.docker


@pytest.fixture
def start_warm(start_runner: Start) -> Callable[..., Runner]:
    def start(**env: str) -> Runner:
        return start_runner(env={"CI_RUNNER_WARM_CONTAINERS": "2", **env})

    return start


def make_project(root: Path) -> Path:
    root.mkdir()
    (root / "requirements.txt").write_text("pytest==8.3.4\n")
    (root / "data.txt").write_text("one\n")
    (root / "gone.txt").write_text("here\n")
    (root / "test_it.py").write_text(
        "import os, sys\nfrom pathlib import Path\n\nimport pytest\n\n\n"
        "@pytest.mark.parametrize('words', ['one', 'one two'])\n"
        "def test_it(words, request):\n"
        "    assert Path('data.txt').read_text().split() == words.split()\n"
        "    assert Path('gone.txt').exists() == (words == 'one')\n"
        "    assert os.environ.get('VARIABLE', '') == os.environ.get('EXPECTED', '')\n"
        "    assert os.read(0, 1) == b''\n"
    )
    return root


def waiting(runner: Runner) -> list[str]:
    """The frozen containers of this runner that were started ahead."""
    install = (runner.data_dir / "install-id").read_text().strip()
    command = ["docker", "ps", "-q", "--filter", "label=ci-runner.ahead", "--filter", "status=paused"]
    command += ["--filter", f"label=ci-runner.install={install}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def await_waiting(runner: Runner) -> None:
    wait_until(lambda: len(waiting(runner)) == 1, 60, what="a container to wait")


def submit(developer: Developer, project: Path, words: str, *more: str) -> str:
    """Run the test of these words, which must pass; return how its container was started ("" if nothing says so)."""
    done = developer.pytest("-v", f"test_it.py::test_it[{words}]", *more, cwd=project)
    assert done.code == 0, done.text
    found = re.search(r"\bcontainer [\d.]+(?: \((.+?)\))?", done.text)
    assert found is not None, done.text
    return found[1] or ""


def after_a_first_run(runner: Runner, folder: Path) -> tuple[Developer, Path]:
    """Return a developer and their project, for whose next run a container waits."""
    developer = Developer(runner, folder, runner.key)
    project = make_project(folder / "project")
    submit(developer, project, "one")
    await_waiting(runner)
    return developer, project


def edit(project: Path) -> None:
    """Change a file and remove one."""
    (project / "data.txt").write_text("one two\n")
    (project / "gone.txt").unlink()


def test_the_second_run_takes_the_waiting_container_with_its_own_files(
    start_warm: Start, tmp_path: Path
) -> None:
    runner = start_warm()
    developer, project = after_a_first_run(runner, tmp_path)
    edit(project)
    assert submit(developer, project, "one two") == "warm"
    assert not (project / "gone.txt").exists()
    await_waiting(runner)
    assert submit(developer, project, "one two", "--remote-ci-cold") == "a new one was asked for"
    assert submit(developer, project, "one two") == "warm"


def test_another_image_setting_or_user_gets_a_container_of_its_own(start_warm: Start, tmp_path: Path) -> None:
    runner = start_warm()
    developer, project = after_a_first_run(runner, tmp_path)
    other = Developer(runner, tmp_path, runner.make_user("other@example.org")[1])
    assert submit(other, project, "one") == "no container was waiting"
    (project / "pyproject.toml").write_text('[tool.remote-ci]\nmemory = "300M"\n')
    assert submit(developer, project, "one") == "the waiting container was another job's"


def test_nothing_waits_unless_the_operator_wants_it(start_runner: Start, tmp_path: Path) -> None:
    runner = start_runner()
    assert submit(Developer(runner, tmp_path, runner.key), make_project(tmp_path / "project"), "one") == ""
    assert waiting(runner) == []


def test_a_killed_controllers_waiting_container_is_removed(start_warm: Start, tmp_path: Path) -> None:
    runner = start_warm()
    developer, project = after_a_first_run(runner, tmp_path)
    runner.kill("reconcile")
    runner.start_reconcile()
    wait_until(lambda: not waiting(runner), 30, what="the container to be removed")
    submit(developer, project, "one")


@pytest.mark.parametrize("point", ["warm.handed_over", "warm.taken"])
def test_a_controller_killed_while_a_job_takes_a_container_loses_no_job(
    start_warm: Start, tmp_path: Path, point: str
) -> None:
    runner = start_warm(CI_RUNNER_ALLOW_FAILPOINTS="1", CI_RUNNER_FAILPOINTS=f"{point}=kill")
    developer, project = after_a_first_run(runner, tmp_path)
    edit(project)
    command = [developer.python, "-m", "pytest", "--remote-ci", "-q", "test_it.py::test_it[one two]"]
    client = developer.popen(*command, cwd=project)
    process = runner.processes["reconcile"]
    process.wait(60)
    runner.processes.pop("reconcile")
    runner.env.pop("CI_RUNNER_FAILPOINTS")
    runner.start_reconcile()
    out, err = client.communicate(timeout=120)
    assert client.returncode == 0, out + err


def test_a_container_that_died_while_it_waited_is_not_missed(start_warm: Start, tmp_path: Path) -> None:
    runner = start_warm()
    developer, project = after_a_first_run(runner, tmp_path)
    subprocess.run(["docker", "kill", *waiting(runner)], check=True, capture_output=True)
    assert submit(developer, project, "one") == "the waiting container failed"


def test_a_test_finds_the_same_facts_in_a_warm_and_a_cold_start(start_warm: Start, tmp_path: Path) -> None:
    runner = start_warm()
    developer = Developer(runner, tmp_path, runner.key)
    project = tmp_path / "facts"
    shutil.copytree(FIXTURES / "facts", project, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "private").mkdir(exist_ok=True)
    (project / "private.txt").write_text("private\n")
    outside = {"project": str(project), "host": "host", "processors": 2, "pid": 1, "command": "pytest"}
    (project / "outside.json").write_text(json.dumps(outside))
    found = []
    for _ in range(2):
        done = developer.pytest("-v", "-rP", "-p", "no:cacheprovider", cwd=project, timeout=240)
        match = re.search(r"^FACTS (\{.*\})\r?$", done.out, re.MULTILINE)
        assert match is not None, done.text
        found.append(json.loads(match[1]))
        await_waiting(runner)
    assert "(warm)" in done.text
    cold, warm = found
    assert len(cold) >= 60
    assert {
        name: (cold.get(name), warm.get(name)) for name in cold | warm if cold.get(name) != warm.get(name)
    } == {}
