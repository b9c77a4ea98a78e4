"""`remote-ci pipeline run` and what comes after it, as a developer types it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from support.developer import Developer, interrupt
from support.pipelines import Api
from support.runner import Runner
from support.waiting import wait_until

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
script = ["exit 3"]
allow-failure = true

[tool.remote-ci.pipelines.ci.jobs.tests]
stage = "test"
args = ["-q"]
artifacts = ["out/**"]

[tool.remote-ci.pipelines.ci.jobs.switch]
stage = "late"
script = ["test \\"$SWITCH\\" = on || { echo it is off; exit 9; }"]
secrets = ["SWITCH"]

[tool.remote-ci.pipelines.ci.jobs.last]
stage = "late"
needs = ["switch"]
script = ["true"]

[tool.remote-ci.pipelines.slow]
stages = ["only"]

[tool.remote-ci.pipelines.slow.jobs.sleeper]
stage = "only"
script = ["echo asleep", "exec sleep 300"]
"""
TEST = """
import pathlib
def test_it():
    pathlib.Path("out").mkdir()
    pathlib.Path("out/left.txt").write_text("left behind")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with pipelines."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PIPELINES)
    (folder / "requirements.txt").write_text("pytest\n")
    (folder / "test_it.py").write_text(TEST)
    return folder


@pytest.mark.case("B50", "B51", "B52", "B57", "B60", "B77", "B78", "B79")
def test_a_run_from_its_submission_to_its_reports(developer: Developer, folder: Path) -> None:
    missing = developer.remote_ci("pipeline", "run", "ci", cwd=folder)
    assert missing.code == 4, missing.text
    assert "secrets of the pipeline are not set in the environment: SWITCH" in missing.err

    done = developer.remote_ci("pipeline", "run", "ci", cwd=folder, SWITCH="off")
    assert done.code == 1, done.text
    assert "Run ci#1: " in done.err
    assert re.search(r"^check / lint: passed  [\d.]+ s$", done.err, re.MULTILINE), done.err
    assert re.search(r"^check / flaky: failed, allowed  [\d.]+ s  exit code 3$", done.err, re.MULTILINE)
    assert re.search(r"^late / switch: failed  [\d.]+ s  exit code 9$", done.err, re.MULTILINE)
    assert "late / last: cancelled  needs 'switch', which failed" in done.err
    assert "it is off\n" in done.out
    assert done.err.endswith("ci #1 FAILED: job 'switch' failed: exit code 9\n")
    assert "off" not in done.err.replace("it is off", "")

    again = developer.remote_ci("pipeline", "rerun", "ci#1", "--failed", cwd=folder, SWITCH="on")
    assert again.code == 0, again.text
    assert "test / tests: passed before" in again.err
    assert "check / flaky: failed, allowed" in again.err
    assert "late / last: passed" in again.err

    status = developer.remote_ci("pipeline", "status", "ci#2", cwd=folder)
    assert status.code == 0
    assert "✓ last" in status.out
    assert "= tests" in status.out
    watched = developer.remote_ci("pipeline", "status", "ci#1", "--watch", cwd=folder)
    assert watched.code == 1

    assert re.search(r"tests +passed before  1 passed", status.out), status.out
    logs = developer.remote_ci("pipeline", "logs", "ci#1", "--job", "lint", cwd=folder)
    assert logs.out.endswith("$ echo linting\nlinting\n")
    followed = developer.remote_ci("pipeline", "logs", "ci#1", "--follow", cwd=folder)
    assert followed.code == 1, followed.text
    assert "--- late / switch\n" in followed.err
    assert "linting\n" in followed.out
    assert followed.out.endswith("it is off\n")
    check_choice_of_jobs(developer, folder)
    for words in (["ci"], ["-p", "ci"], ["--pipeline", "ci"]):
        newest = developer.remote_ci("pipeline", "status", *words, "--verbose", cwd=folder)
        assert newest.code == 0, newest.text
        assert newest.out.startswith("ci#2  ")
        assert "GET /runs: 200\n" in newest.err
    fetched = developer.remote_ci("pipeline", "artifacts", "ci#1", "-d", "here", cwd=folder)
    assert fetched.code == 0, fetched.text
    assert (folder / "here/tests/out/left.txt").read_text() == "left behind"
    check_reports(developer, folder)


def check_choice_of_jobs(developer: Developer, folder: Path) -> None:
    """By their stage, by name, and by both."""

    def logs(*words: str, code: int = 0) -> str:
        done = developer.remote_ci("pipeline", "logs", "ci#1", *words, cwd=folder)
        assert done.code == code, done.text
        return done.err

    shown = logs("--stage", "check")
    assert "--- check / lint" in shown
    assert "--- check / flaky" in shown
    assert "late" not in shown
    assert logs("--stage", "check", "--job", "lint") == ""
    assert "the run has no job 'none'; it has " in logs("--job", "none", code=4)
    assert "the run has no stage 'none'; it has check, test, late" in logs("--stage", "none", code=4)
    wrong = logs("--stage", "late", "--job", "lint", code=4)
    assert "the stage 'late' has no job 'lint'; it has switch, last" in wrong


def check_reports(developer: Developer, folder: Path) -> None:
    """The six shapes, and all of them in the four forms."""

    def report(*words: str, code: int = 0) -> str:
        done = developer.remote_ci("pipeline", "report", *words, cwd=folder)
        assert done.code == code, done.text
        return done.out if code == 0 else done.err

    history = report("ci")
    assert history.count("Pipeline Name: ci") == 2
    assert f"\n\n{'-' * 40}\n" in history
    assert history.index("Run Number: 2") < history.index("Run Number: 1"), "newest first"
    one = json.loads(report("-p", "ci", "--run", "1", "--format", "json"))
    assert (one["runNumber"], one["status"]) == (1, "FAILED")
    assert [(stage["name"], stage["status"]) for stage in one["stages"]] == [
        ("check", "SUCCESS"),
        ("test", "SUCCESS"),
        ("late", "FAILED"),
    ]
    flaky = one["stages"][0]["jobs"][1]
    assert (flaky["name"], flaky["executions"][0]["status"], flaky["executions"][0]["allowFailure"]) == (
        "flaky",
        "FAILED",
        True,
    )
    assert "Allow Failure: true" in report("ci", "--run", "1", "--stage", "check")
    job = report("ci", "--run", "1", "--stage", "late", "--job", "last")
    assert "Status: CANCELED (needs 'switch', which failed)" in job
    assert report("ci", "--stage", "late").count("Stage Name: late\nStatus: ") == 2
    assert report("ci", "--stage", "late", "--job", "switch").count("Execution ID: ") == 2
    suites = ElementTree.fromstring(report("ci", "--run", "1", "--format", "junit"))
    assert {suite.get("name"): suite.get("failures") for suite in suites} == {
        "ci#1 check": "0",
        "ci#1 test": "0",
        "ci#1 late": "1",
    }
    assert "<td>switch</td><td>FAILED</td>" in report("ci", "--format", "html")
    assert "Pipeline Name: ci" in report()
    assert "Pipeline not found: nine" in report("nine", code=4)
    assert "Pipeline execution not found for run: 9" in report("ci", "--run", "9", code=4)
    assert "No executions found for stage: nine" in report("ci", "--run", "1", "--stage", "nine", code=4)
    assert "No executions found for stage: nine" in report("ci", "--stage", "nine", code=4)
    nothing = report("ci", "--run", "1", "--stage", "late", "--job", "nine", code=4)
    assert "Job execution not found for job: nine" in nothing
    for more in ([], ["--run", "1"]):
        refused = report("ci", *more, "--job", "lint", code=4)
        assert "Error: --stage parameter is required when using --job" in refused


def test_only_a_stage_or_a_job(developer: Developer, folder: Path) -> None:
    done = developer.remote_ci("pipeline", "run", "ci", "--job", "lint", cwd=folder)
    assert done.code == 0, done.text
    assert "lint: passed" in done.err
    assert "tests" not in done.err


def test_without_waiting_and_cancelled_from_elsewhere(developer: Developer, folder: Path) -> None:
    sent = developer.remote_ci("pipeline", "run", "slow", "--async", cwd=folder)
    assert sent.code == 0, sent.text
    found = re.fullmatch(r"Run submitted: ([0-9a-f-]{36}) \((slow#\d+)\)\n", sent.out)
    assert found, sent.out
    command = [sys.executable, "-m", "pytest_remote_ci.cli.main", "pipeline", "logs", found[2], "--follow"]
    following = developer.popen(*command, "--job", "sleeper", cwd=folder)
    assert following.stdout is not None
    while following.stdout.readline() != "asleep\n":  # it arrives while the job runs
        assert following.poll() is None
    part = developer.remote_ci("pipeline", "cancel", found[1][:8], "--job", "sleeper", cwd=folder)
    following.communicate(timeout=60)
    assert following.returncode == 70
    assert part.out == f"Cancelling 'sleeper' of {found[2]}.\n", part.text
    watched = developer.remote_ci("pipeline", "status", found[2], "--watch", cwd=folder)
    assert watched.code == 70
    assert "slow #" in watched.text
    assert developer.remote_ci("pipeline", "cancel", "nothing", cwd=folder).code == 4


def test_ctrl_c_cancels_the_run(developer: Developer, folder: Path) -> None:
    command = [sys.executable, "-m", "pytest_remote_ci.cli.main", "pipeline", "run", "slow"]
    process = developer.popen(*command, cwd=folder)
    path = "/runs?pipeline=slow&status=running"
    wait_until(lambda: developer.runner.get(path, developer.key) != [], 60, what="the run's start")
    done = interrupt(process)
    assert done.code == 2, done.text
    assert "Run cancelled by user." in done.err
    assert "Traceback" not in done.text
    newest = developer.runner.get("/runs?pipeline=slow&limit=1", developer.key)[0]
    assert newest["status"] == "cancelled"


@pytest.mark.case("B50")
def test_a_runner_that_is_away_and_a_key_that_is_refused(developer: Developer, folder: Path) -> None:
    for words in (["run", "slow"], ["status", "slow#1"], ["report", "slow"]):
        away = developer.remote_ci("pipeline", *words, cwd=folder, REMOTE_CI_URL="http://127.0.0.1:9")
        assert away.code == 69, away.text
        wrong = developer.remote_ci("pipeline", *words, cwd=folder, REMOTE_CI_API_KEY="ci_wrong")
        assert wrong.code == 77, wrong.text


@pytest.mark.case("B50")
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nine#1"], 4, "not found"),
        ([""], 4, "not found"),
        (["no such run"], 4, "not found"),
        (["-p", "nine"], 4, "Run not found: pipeline 'nine' has no run"),
        (["ci#1", "-p", "ci"], 4, "not allowed with argument"),
        ([], 4, "one of the arguments RUN -p/--pipeline is required"),
    ],
)
def test_the_status_of_what_is_no_run(
    developer: Developer, folder: Path, words: list[str], code: int, message: str
) -> None:
    done = developer.remote_ci("pipeline", "status", *words, cwd=folder)
    assert (done.code, done.out) == (code, ""), done.text
    assert message in done.err


@pytest.mark.case("B55")
def test_an_unknown_format_of_a_report_is_wrong_usage(developer: Developer, folder: Path) -> None:
    done = developer.remote_ci("pipeline", "report", "ci", "--format", "nonsense", cwd=folder)
    assert (done.code, done.out) == (4, ""), done.text
    assert "invalid choice: 'nonsense'" in done.err


@pytest.mark.case("B45", "B46", "B47", "B49", "B64", "B76")
def test_a_file_is_enough_and_nothing_is_cloned(developer: Developer, folder: Path) -> None:
    """What runs is the working tree around the file: no repository, branch or commit is ever asked for."""
    nothing = developer.remote_ci("pipeline", "run", cwd=developer.home)
    assert nothing.code == 4, nothing.text
    assert "no pipeline is defined" in nothing.err
    (folder / "extra").mkdir()
    jobs = "stages: [one]\njobs:\n  - {name: here, stage: one, script: test -f test_it.py}\n"
    (folder / "extra" / "own.yaml").write_text(f"name: named\n{jobs}")
    (folder / "extra" / "nameless.yaml").write_text(jobs)
    assert not (folder / ".git").exists()
    for file, name in (("own", "named"), ("nameless", "nameless")):
        done = developer.remote_ci("pipeline", "run", "-f", f"extra/{file}.yaml", cwd=folder)
        assert done.code == 0, done.text
        assert f"Run {name}#1: " in done.err
        assert "one / here: passed" in done.err
    outside = developer.home / "alone.yaml"
    outside.write_text("name: alone\nstages: [one]\njobs: [{name: a, stage: one, script: x}]\n")
    lost = developer.remote_ci("pipeline", "run", "-f", "alone.yaml", cwd=developer.home)
    assert lost.code == 4, lost.text
    assert "is not in a project" in lost.err


@pytest.mark.case("B49")
@pytest.mark.parametrize("address", ["https://example.org/a/b.git", "git@example.org:a/b.git", "no address"])
def test_the_address_of_the_repository_is_no_matter(developer: Developer, folder: Path, address: str) -> None:
    for words in (["init", "-q"], ["remote", "add", "origin", address]):
        subprocess.run(["git", *words], cwd=folder, check=True, timeout=30)
    (folder / "own.yaml").write_text(
        "name: own\nstages: [one]\njobs:\n  - {name: here, stage: one, script: test -f test_it.py}\n"
    )
    done = developer.remote_ci("pipeline", "run", "-f", "own.yaml", cwd=folder)
    assert done.code == 0, done.text
    assert "one / here: passed" in done.err


@pytest.mark.case("B48")
def test_a_dry_run_knows_how_long_jobs_took(developer: Developer, folder: Path) -> None:
    taken = re.compile(r"^ +last took: [\d.]+ ?s$", re.MULTILINE)
    own = folder / "own.toml"
    own.write_text(PIPELINES.replace("pipelines.ci", "pipelines.timed"))
    fresh = developer.remote_ci("pipeline", "dry-run", "timed", "-f", "own.toml", cwd=folder)
    assert fresh.code == 0, fresh.text
    assert not taken.search(fresh.out), "nothing has run yet"
    ran = developer.remote_ci("pipeline", "run", "timed", "-f", "own.toml", "--job", "lint", cwd=folder)
    assert ran.code == 0, ran.text
    dry = developer.remote_ci("pipeline", "dry-run", "timed", "-f", "own.toml", cwd=folder)
    assert dry.code == 0, dry.text
    assert dry.out.startswith("Validating pipeline configuration: own.toml\nExecution Plan:\n")
    assert len(taken.findall(dry.out)) == 1, dry.out
    before, _, after = dry.out.partition("last took")
    assert before.rstrip().splitlines()[-1] in before[before.index("lint") :]
    assert "lint" not in after.replace("Critical path: lint", "")
    option = developer.remote_ci("pipeline", "run", "timed", "-f", "own.toml", "--dry-run", cwd=folder)
    assert (option.code, option.out) == (0, dry.out), option.text


@pytest.mark.case("B63")
def test_a_project_without_a_definition_and_one_with_mistakes(developer: Developer, runner: Runner) -> None:
    api = Api(runner)
    bare = api.post(None, {"a.txt": "x"}, pipeline="ci")
    assert (bare.status_code, bare.json()["detail"]) == (422, "no pipeline is defined")
    broken = api.post(None, {".pipelines/ci.yaml": "name: ci\nstages: 3\n"}, pipeline="ci")
    assert broken.status_code == 422
    assert ".pipelines/ci.yaml:2:" in broken.json()["detail"]
    fine = {".pipelines/ci.yaml": "name: ci\nstages: [one]\njobs: [{name: a, stage: one, script: 'true'}]\n"}
    unknown = api.post(None, fine, pipeline="nine")
    assert "no pipeline 'nine'" in unknown.json()["detail"]
    assert api.until_over(api.run(None, fine)["run_id"])["success"] is True


@pytest.mark.case("B58")
def test_the_service_says_that_it_is_up(runner: Runner) -> None:
    assert runner.get("/health") == {"status": "ok"}
