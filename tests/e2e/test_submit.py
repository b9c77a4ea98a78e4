"""Submitting, waiting, listing: the reference system's end-to-end cases, with our commands, on real containers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.developer import Developer, interrupt
from support.waiting import wait_until

pytestmark = pytest.mark.docker

Project = Callable[[str], Path]

SLOW_TEST = "import time\ndef test_slow():\n    time.sleep(40)\ndef test_after():\n    pass\n"


def submit_async(developer: Developer, folder: Path, *args: str) -> str:
    """The id of a job that was submitted without waiting."""
    done = developer.remote_ci("submit", "--async", *args, cwd=folder)
    assert done.code == 0, done.text
    return done.out.strip().removeprefix("Job submitted: ")


def slow_project(folder: Path) -> Path:
    """A project whose test takes longer than anybody waits."""
    folder.mkdir()
    (folder / "test_slow.py").write_text(SLOW_TEST)
    return folder


@pytest.mark.case(1)
def test_a_passing_project_passes(developer: Developer, project: Project) -> None:
    done = developer.remote_ci("submit", cwd=project("dummy_project"))
    assert done.code == 0, done.text
    assert "test_add" in done.out
    assert "test_subtract" in done.out
    assert "2 passed" in done.out
    assert "remote-ci wait" in done.err


@pytest.mark.case(2)
def test_a_failing_project_fails_with_its_tests_shown(developer: Developer, project: Project) -> None:
    done = developer.remote_ci("submit", cwd=project("failing_project"))
    assert done.code == 1, done.text
    assert "test_multiply" in done.out
    assert "test_divide" in done.out
    assert "2 failed, 1 passed" in done.out


@pytest.mark.case(3)
def test_a_syntax_error_is_shown_and_fails(developer: Developer, project: Project) -> None:
    done = developer.remote_ci("submit", cwd=project("invalid_project"))
    assert done.code == 2, done.text
    assert "SyntaxError" in done.out


@pytest.mark.case(4)
def test_async_prints_the_id(developer: Developer, project: Project) -> None:
    assert len(submit_async(developer, project("dummy_project"))) == 36


@pytest.mark.case(5, 6)
@pytest.mark.parametrize(
    ("name", "code", "words"), [("dummy_project", 0, "2 passed"), ("failing_project", 1, "2 failed")]
)
def test_waiting_for_all_shows_the_whole_log(
    developer: Developer, project: Project, name: str, code: int, words: str
) -> None:
    job = submit_async(developer, project(name))
    done = developer.remote_ci("wait", job, "--all")
    assert done.code == code, done.text
    assert words in done.out
    assert "test session starts" in done.out


@pytest.mark.case(7)
def test_waiting_for_an_unknown_job_is_an_error(developer: Developer) -> None:
    done = developer.remote_ci("wait", "00000000-0000-0000-0000-000000000000")
    assert done.code == 4
    assert "not found" in done.text.lower()


@pytest.mark.defect("A8")
@pytest.mark.case(8)
def test_interrupting_a_submission_cancels_the_job(developer: Developer, tmp_path: Path) -> None:
    """Ours differs on purpose: the job is really cancelled."""
    folder = slow_project(tmp_path / "slow")
    process = developer.popen(sys.executable, "-m", "pytest_remote_ci.cli.main", "submit", cwd=folder)
    assert developer.key is not None
    wait_until(lambda: any(job["phase"] == "testing" for job in developer.jobs()), 60)
    done = interrupt(process)
    assert done.code == 2, done.text
    assert "cancelled" in done.text.lower()
    assert "Traceback" not in done.text
    assert [job["status"] for job in developer.jobs()] == ["cancelled"]


@pytest.mark.case(9)
def test_interrupting_a_wait_leaves_the_job_running(developer: Developer, tmp_path: Path) -> None:
    job = submit_async(developer, slow_project(tmp_path / "slow"))
    process = developer.popen(
        sys.executable, "-m", "pytest_remote_ci.cli.main", "wait", job, "--all", cwd=tmp_path
    )
    wait_until(lambda: any(job["phase"] == "testing" for job in developer.jobs()), 60)
    done = interrupt(process)
    assert done.code == 2, done.text
    assert "stopped waiting" in done.err.lower()
    assert "continues to run" in done.err
    assert f"remote-ci wait {job}" in done.err
    assert developer.jobs()[0]["status"] == "running"
    assert developer.remote_ci("cancel", job).code == 0
    wait_until(lambda: developer.jobs()[0]["status"] == "cancelled", 30)


@pytest.mark.case(10)
def test_waiting_for_a_job_that_is_over_says_so(developer: Developer, project: Project) -> None:
    job = submit_async(developer, project("dummy_project"))
    developer.remote_ci("wait", job, "--all")
    done = developer.remote_ci("wait", job)
    assert done.code == 0
    assert "already completed" in done.text
    assert "\\n" not in done.text
    assert "test_add" not in done.out


@pytest.mark.case(11)
def test_the_list_shows_both_jobs_as_json_and_as_a_table(developer: Developer, project: Project) -> None:
    jobs = [submit_async(developer, project(name)) for name in ("dummy_project", "failing_project")]
    for job in jobs:
        developer.remote_ci("wait", job, "--all")
    listed = json.loads(developer.remote_ci("list", "--json").out)
    assert {item["job_id"]: item["success"] for item in listed} == dict(zip(jobs, (True, False), strict=True))
    assert all(item["start_time"] and item["end_time"] for item in listed)
    # Ours differs on purpose: newest submission first, whether started or not.
    assert [item["job_id"] for item in listed] == jobs[::-1]
    table = developer.remote_ci("list").out
    for words in (
        "JOB",
        "PROJECT",
        "RESULT",
        "DURATION",
        "AGE",
        "2 failed, 1 passed",
        *(job[:8] for job in jobs),
    ):
        assert words in table
    assert {item["project"] for item in listed} == {"dummy_project", "failing_project"}


def test_show_and_status_filter(developer: Developer, project: Project) -> None:
    job = submit_async(developer, project("dummy_project"))
    developer.remote_ci("wait", job, "--all")
    assert json.loads(developer.remote_ci("show", job, "--json").out)["exit_code"] == 0
    assert job in developer.remote_ci("show", job).out
    assert json.loads(developer.remote_ci("list", "--json", "--status", "failed").out) == []
    assert len(json.loads(developer.remote_ci("list", "--json", "--limit", "1").out)) == 1


def test_a_dry_run_lists_what_would_travel_and_sends_nothing(developer: Developer, project: Project) -> None:
    done = developer.remote_ci("submit", "--dry-run", cwd=project("dummy_project"))
    assert done.code == 0, done.text
    assert "src/calculator.py" in done.out
    assert developer.jobs() == []


@pytest.mark.case(95)
def test_a_project_without_requirements_is_no_error(developer: Developer, tmp_path: Path) -> None:
    """Ours differs on purpose: nothing names pytest, so the runner installs it."""
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "test_one.py").write_text("def test_one():\n    pass\n")
    done = developer.remote_ci("submit", cwd=folder)
    assert done.code == 0, done.text
    assert "1 passed" in done.out
