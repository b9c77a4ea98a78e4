"""A plan as JSON: it comes back as it was, and nothing that does not hold together comes in."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest

from ci_runner.pipelines.plan import Plan, PlannedJob, Retries, Service
from pytest_remote_ci.wire.protocol import WireError

FULL = Plan(
    pipeline="ci",
    stages=("build", "test", "empty"),
    keep_going=True,
    stage_timeouts={"test": 1200.0},
    jobs=(
        PlannedJob(name="wheel", definition="wheel", stage="build", script=("python -m build",)),
        PlannedJob(
            name="docs", definition="docs", stage="build", script=(), skipped="no file below docs/ changed"
        ),
        PlannedJob(
            name="tests (python=3.12)",
            definition="tests",
            stage="test",
            cell={"python": "3.12"},
            needs=("wheel",),
            artifacts_from=("wheel",),
            image="python:3.12",
            python="3.12",
            packages=("g++", "libcairo2-dev"),
            args=("-x", "tests"),
            env={"A": "1"},
            secrets=("TOKEN",),
            working_dir="sub",
            allow_failure=True,
            retries=Retries(2, (75,)),
            timeout=60.0,
            artifacts=("dist/*",),
            artifacts_when="failure",
            artifacts_days=7.0,
            services=(
                Service("db", "postgres:17", {"B": "2"}, "pg_isready", (5432,), ("postgres", "-c", "x")),
            ),
            cpus=1.5,
            memory=1 << 30,
        ),
    ),
)


def test_a_plan_comes_back_as_it_was() -> None:
    assert Plan.from_dict(json.loads(json.dumps(FULL.to_dict()))) == FULL


def test_a_plan_without_timeouts_of_stages_is_one_that_older_runners_take() -> None:
    assert "stage_timeouts" not in dataclasses.replace(FULL, stage_timeouts={}).to_dict()


def test_defaults_are_left_out() -> None:
    assert json.loads(json.dumps(FULL.to_dict()))["jobs"][0] == {
        "name": "wheel",
        "definition": "wheel",
        "stage": "build",
        "script": ["python -m build"],
    }


def test_an_empty_script_is_not_pytest() -> None:
    again = Plan.from_dict(FULL.to_dict())
    assert [job.script for job in again.jobs] == [("python -m build",), (), None]


def changed(path: str, value: Any) -> dict[str, Any]:
    """The full plan's JSON with one value replaced; `path` is written as ``jobs.0.needs``."""
    raw: Any = copy.deepcopy(FULL.to_dict())
    target = raw
    *parents, last = path.split(".")
    for part in parents:
        target = target[int(part)] if isinstance(target, list) else target[part]
    target[last] = value
    return dict(raw)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", 2, "plan.version: must be 1, not 2"),
        ("later", 1, "plan.later: is unknown to this runner"),
        ("pipeline", " ", "plan.pipeline: must be a name"),
        ("stages", "build", "plan.stages: must be a list of strings"),
        ("stages", ["build", "build", "test"], "plan.stages: 'build' occurs twice"),
        ("jobs", {}, "plan.jobs: must be a list of at most 1000 jobs"),
        ("jobs", [{"name": "a", "stage": "build"}], "plan.jobs[0].definition: is missing"),
        ("jobs.0.gpu", 1, "plan.jobs[0].gpu: is unknown to this runner"),
        ("jobs.0.name", "docs", "plan.jobs: 'docs' occurs twice"),
        ("jobs.0.stage", "x", "plan.jobs['wheel'].stage: unknown stage 'x'"),
        ("jobs.0.needs", ["x"], "plan.jobs['wheel'].needs: unknown job 'x'"),
        ("jobs.0.needs", ["wheel"], "plan.jobs: circular dependency: wheel -> wheel"),
        (
            "jobs.0.needs",
            ["docs"],
            "plan.jobs['wheel'].needs: 'docs' is left out of the run, so it must be, too",
        ),
        ("jobs.0.artifacts_from", ["docs"], "plan.jobs['wheel'].artifacts_from: must be among its needs"),
        ("jobs.0.script", "make", "plan.jobs[0].script: must be a list of strings"),
        ("jobs.0.python", "3", "plan.jobs[0].python: '3' is not a Python version such as '3.12'"),
        (
            "jobs.0.env",
            {"A B": "1"},
            "plan.jobs[0].env: 'A B' is not a valid name of an environment variable",
        ),
        ("jobs.0.packages", ["-y"], "plan.jobs[0].packages[0]: '-y' is not the name of a package"),
        ("jobs.0.working_dir", "../x", "plan.jobs[0].working_dir: '../x' must be a path below the project"),
        (
            "jobs.0.artifacts",
            ["/etc/*"],
            "plan.jobs[0].artifacts[0]: '/etc/*' must match paths inside the project",
        ),
        ("jobs.0.timeout", 0, "plan.jobs[0].timeout: must be a number above 0"),
        ("jobs.0.retries", {"count": True}, "plan.jobs[0].retries.count: must be an integer from 0 to 100"),
        ("jobs.2.services.0.name", "My_DB", "plan.jobs[2].services[0].name: 'My_DB' is not a host name"),
        (
            "jobs.2.services.0.ports",
            [0],
            "plan.jobs[2].services[0].ports[0]: must be an integer from 1 to 65535",
        ),
        ("jobs.2.artifacts_when", "now", "plan.jobs[2].artifacts_when: must be always, success or failure"),
        ("keep_going", 1, "plan.keep_going: must be true or false"),
        ("stage_timeouts", [1], "plan.stage_timeouts: must be an object of numbers"),
        ("stage_timeouts", {"test": 0}, "plan.stage_timeouts.test: must be a number above 0"),
        ("stage_timeouts", {"tset": 5}, "plan.stage_timeouts: unknown stage 'tset'"),
    ],
)
def test_what_does_not_hold_together_is_refused_by_name(path: str, value: Any, message: str) -> None:
    with pytest.raises(WireError) as caught:
        Plan.from_dict(changed(path, value))
    assert message in str(caught.value)


@pytest.mark.parametrize("raw", [None, [], "x", {"version": 1}, {"version": 1, "jobs": [1], "stages": []}])
def test_what_is_no_plan_is_refused(raw: object) -> None:
    with pytest.raises(WireError):
        Plan.from_dict(raw)
