"""What the second reference system did wrong from the command line on, typed here.

docs/reference/conformance.md lists all of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.developer import Developer
from support.runner import Runner

RUNNER_OPTIONS = ("--concurrency", "3")
pytestmark = pytest.mark.parametrize("runner", ["process"], indirect=True)

NESTED = """
stages:
  - name: unit tests
    jobs:
      - name: run all
        working_dir: sub folder
        script: [cat word.txt]
"""


@pytest.fixture
def developer(runner: Runner, tmp_path: Path) -> Developer:
    """The one user of this runner."""
    home = tmp_path / "home"
    home.mkdir()
    return Developer(runner, home, runner.key)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project that is no repository, with one nested pipeline whose name, stage, job and folder have spaces."""
    folder = tmp_path / "project"
    (folder / ".pipelines").mkdir(parents=True)
    (folder / ".pipelines" / "night shift.yaml").write_text(NESTED)
    (folder / "requirements.txt").write_text("")
    (folder / "sub folder").mkdir()
    (folder / "sub folder" / "word.txt").write_text("as it is on disk\n")
    return folder


@pytest.mark.defect(1)
@pytest.mark.every(2)
def test_what_the_command_line_says_reaches_the_run(developer: Developer, folder: Path) -> None:
    (folder / "own.yaml").write_text("""
name: own
stages: [one]
jobs:
  - {name: chosen, stage: one, script: [cat "sub folder/word.txt", exec sleep 300]}
  - {name: tagged, stage: one, when: {tag: v*}, script: ["true"]}
  - {name: other, stage: one, script: ["true"]}
""")
    own = ("pipeline", "run", "-f", "own.yaml")
    assert developer.remote_ci(*own, "--job", "other", cwd=folder).code == 0  # prepares the environment
    words = ("--job", "chosen", "--job", "tagged", "--keep-going", "--timeout", "15", "--tag", "v1")
    done = developer.remote_ci(*own, *words, cwd=folder)
    assert done.code == 70, done.text
    assert "as it is on disk" in developer.remote_ci("pipeline", "logs", "own#2", cwd=folder).out
    summary = developer.runner.get("/runs?pipeline=own", developer.key)[0]
    run = developer.runner.get(f"/runs/{summary['run_id']}", developer.key)
    assert (run["pipeline"], run["keep_going"]) == ("own", True)
    assert [job["name"] for job in run["jobs"]] == ["chosen", "tagged"]
    assert (run["status"], run["reason"]) == ("failed", "the run timed out after 15 s")


@pytest.mark.defect(2, 14)
def test_nested_jobs_run_in_their_folders_and_names_may_have_spaces(
    developer: Developer, folder: Path
) -> None:
    done = developer.remote_ci("pipeline", "run", "night shift", cwd=folder)
    assert done.code == 0, done.text
    assert "unit tests / run all: passed" in done.err
    where = ("--run", "1", "--stage", "unit tests", "--job", "run all", "--format", "json")
    report = developer.remote_ci("pipeline", "report", "night shift", *where, cwd=folder)
    assert report.code == 0, report.text
    job = json.loads(report.out)
    assert (job["name"], job["stageName"], job["pipelineName"]) == ("run all", "unit tests", "night shift")
    assert "as it is on disk" in developer.remote_ci("pipeline", "logs", "night shift#1", cwd=folder).out


@pytest.mark.defect(3, 4, 11)
def test_a_pipeline_runs_twice_at_once_and_each_run_can_be_asked_for(
    developer: Developer, folder: Path
) -> None:
    (folder / "twice.yaml").write_text(
        "name: twice\nstages: [s]\njobs: [{name: a, stage: s, script: cat */word.txt}]\n"
    )
    command = [sys.executable, "-m", "pytest_remote_ci.cli.main", "pipeline", "run", "-f", "twice.yaml"]
    both = [developer.popen(*command, cwd=folder) for _ in range(2)]
    texts = ["".join(process.communicate(timeout=120)) for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    for number in ("1", "2"):
        status = developer.remote_ci("pipeline", "status", f"twice#{number}", cwd=folder)
        assert status.code == 0, status.text
        assert f"twice #{number}" in status.text
        report = developer.remote_ci(
            "pipeline", "report", "twice", "--run", number, "--format", "json", cwd=folder
        )
        assert report.code == 0, report.text
        assert (json.loads(report.out)["runNumber"], json.loads(report.out)["status"]) == (
            int(number),
            "SUCCESS",
        )
    assert developer.remote_ci("pipeline", "status", "twice#0", cwd=folder).code == 4
