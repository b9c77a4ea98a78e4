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


def test_what_takes_long_to_import_was_imported_before_the_job(start_warm: Start, tmp_path: Path) -> None:
    runner = start_warm()
    developer = Developer(runner, tmp_path, runner.key)
    project = tmp_path / "numbers"
    project.mkdir()
    (project / "requirements.txt").write_text("pytest==8.3.4\nnumpy==2.2.6\n")
    (project / "conftest.py").write_text(
        "import sys\nEARLY = 'numpy' in sys.modules\n"
        "def pytest_terminal_summary(terminalreporter):\n"
        "    terminalreporter.write_line(f'EARLY {EARLY}')\n"
    )
    test = "import os\nimport numpy\n\n\ndef test_it():\n    assert numpy.arange(4).sum() == 6\n"
    (project / "test_it.py").write_text(test)

    def run() -> tuple[str, str]:
        done = developer.pytest("-v", cwd=project)
        assert done.code == 0, done.text
        return done.text.partition("EARLY ")[2].split()[0], done.text.partition("container ")[2]

    assert run()[0] == "False"
    await_waiting(runner)
    (project / "test_it.py").write_text(test + "    assert 'OMP_NUM_THREADS' in os.environ\n")
    early, container = run()
    assert (early, "(warm)" in container) == ("True", True)
    await_waiting(runner)
    (project / "numpy").mkdir()  # a folder that the import would find first
    (project / "numpy" / "__init__.py").write_text(
        "class arange:\n    def __init__(self, n): pass\n    def sum(self): return 6\n"
    )
    assert run()[0] == "False"


def test_nothing_waits_if_it_takes_too_much_memory(start_warm: Start, tmp_path: Path) -> None:
    runner = start_warm(CI_RUNNER_WARM_MEMORY="1M")
    developer = Developer(runner, tmp_path, runner.key)
    submit(developer, make_project(tmp_path / "project"), "one")
    wait_until(lambda: "it would take" in runner.log("reconcile"), 60, what="the line of the log")
    assert waiting(runner) == []


def test_nothing_waits_if_the_operator_does_not_want_it(start_runner: Start, tmp_path: Path) -> None:
    runner = start_runner(env={"CI_RUNNER_WARM_CONTAINERS": "0"})
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
