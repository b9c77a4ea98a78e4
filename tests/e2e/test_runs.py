"""Runs of pipelines as a client of the API has them: real `serve` and `reconcile`, jobs as plain processes."""

from __future__ import annotations

import pytest
from pipelining import Api, by_name, plan_of, planned
from running import Runner

pytestmark = pytest.mark.parametrize("runner", ["process"], indirect=True)

PROJECT = {"requirements.txt": "pytest\n", "test_it.py": "def test_it():\n    assert True\n"}


@pytest.fixture
def api(runner: Runner) -> Api:
    """The runner's one user."""
    return Api(runner)


def test_two_jobs_run_one_after_the_other(api: Api) -> None:
    plan = plan_of(
        planned("lint", "echo linting", "test -f test_it.py", stage="check"),
        planned("tests", stage="test", needs=("lint",)),
    )
    run = api.run(plan, PROJECT)
    assert (run["pipeline"], run["number"], run["status"]) == ("default", 1, "queued")
    assert [job["status"] for job in run["jobs"]] == ["queued", "queued"]
    over = api.until_over(run["run_id"])
    assert (over["status"], over["success"], over["reason"]) == ("completed", True, None), over
    jobs = by_name(over)
    assert [job["exit_code"] for job in over["jobs"]] == [0, 0]
    assert jobs["lint"]["end_time"] <= jobs["tests"]["start_time"]
    assert over["start_time"] == jobs["lint"]["start_time"] > over["submitted_at"]
    assert "$ echo linting\nlinting\n" in api.log(jobs["lint"]["job_id"])
    assert "1 passed" in api.log(jobs["tests"]["job_id"])
