"""What the kernel and people do to containers: the test that ran then is the one that failed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.developer import Developer, outcomes, rest
from support.runner import Runner, docker

pytestmark = pytest.mark.docker


def test_a_test_that_takes_all_memory_has_failed_and_the_others_run(
    developer: Developer, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.remote-ci]\nmemory = "256m"\n')
    (tmp_path / "test_it.py").write_text(
        "def test_first(): pass\n"
        "def test_eats():\n    print('the last words')\n    kept = [bytearray(1 << 20) for _ in range(4096)]\n"
        "def test_last(): pass\n"
    )
    done = developer.pytest("-v", cwd=tmp_path)
    assert outcomes(done) == {"test_first": "PASSED", "test_eats": "FAILED", "test_last": "PASSED"}, done.text
    words = "pytest was killed: out of memory (limit 256 MiB; setting: memory) while running test_it.py::test_eats"
    assert words in done.out
    assert "the last words" in done.out
    assert done.code == 1
    job = developer.jobs()[0]
    assert (job["status"], job["success"], job["exit_code"], job["reason"]) == ("completed", False, 1, words)


def test_the_test_that_ran_when_its_container_was_killed_has_failed(
    runner: Runner, developer: Developer, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(
        "import time\ndef test_first(): pass\ndef test_sleeps(): time.sleep(300)\ndef test_last(): pass\n"
    )
    process = developer.popen(
        sys.executable, "-m", "pytest", "--remote-ci", "-v", cwd=tmp_path, PYTHONUNBUFFERED="1"
    )
    assert process.stdout is not None
    seen = ""
    while "test_first PASSED" not in seen:  # the runner's own time limits end this
        line = process.stdout.readline()
        assert line, seen
        seen += line
    [container] = [
        name
        for name in docker("container", "ls", "--format", "{{.ID}} {{.Names}}", env=runner.env).splitlines()
        if developer.jobs()[0]["job_id"] in name
    ]
    docker("container", "kill", container.split()[0], env=runner.env)
    done = rest(process, seen)
    assert outcomes(done) == {"test_first": "PASSED", "test_sleeps": "FAILED"}, done.text
    assert "container lost while running test_it.py::test_sleeps" in done.out
    assert "1 test(s) were not run" in done.out
    assert done.code == 70


PIPELINE = """
[tool.remote-ci.pipelines.ci]
stages = ["only"]
keep-going = true
[tool.remote-ci.pipelines.ci.jobs.tests]
stage = "only"
env = { MEGABYTES = "{megabytes}" }
matrix = { megabytes = [1, 2000] }
resources = { memory = "256m" }
"""


def test_one_cell_of_a_matrix_that_takes_all_memory_leaves_the_other_alone(
    developer: Developer, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text(PIPELINE)
    (tmp_path / "requirements.txt").write_text("pytest\n")
    (tmp_path / "test_it.py").write_text(
        "import os\ndef test_eats(): bytearray(int(os.environ['MEGABYTES']) << 20)\ndef test_after(): pass\n"
    )
    done = developer.pytest("--remote-ci-pipeline=ci", "-v", cwd=tmp_path, COLUMNS="120")
    assert done.code == 1, done.text
    for megabytes, outcome in ((1, "PASSED"), (2000, "FAILED")):
        assert f"\ntests (megabytes={megabytes})/test_it.py::test_eats {outcome} " in done.out
        assert f"\ntests (megabytes={megabytes})/test_it.py::test_after PASSED " in done.out
    words = "pytest was killed: out of memory (limit 256 MiB; setting: memory) while running test_it.py::test_eats"
    assert f"\n{words}\n" in done.out
    assert f"\ntests (megabytes=2000): {words}; it was started again for the rest\n" in done.out
    assert f"rootdir: {tmp_path}\n" in done.out
