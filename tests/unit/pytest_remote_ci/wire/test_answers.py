"""Answers of a runner, read through types: what may be missing, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_remote_ci.wire import answers
from pytest_remote_ci.wire.answers import AnswerError, Job, Plan, PlannedJob, Run, RunJob

RUN_JOB = {"name": "unit", "stage": "test", "status": "queued"}
RUN = {"run_id": "r", "pipeline": "ci", "number": 1, "status": "queued", "jobs": [RUN_JOB]}
PLAN = {"pipeline": "ci", "stages": ["test"], "jobs": [{"name": "unit", "stage": "test"}]}


def test_a_missing_or_null_member_has_its_default() -> None:
    for more in ({}, dict.fromkeys(("success", "counts", "reason", "exit_code", "name"))):
        job = Job({"job_id": "j", "status": "queued", **more})
        assert (job.success, job.counts, job.reason, job.exit_code, job.name) == (None, {}, "", None, "")
    planned = PlannedJob({"name": "unit", "stage": "test", "script": None})
    assert (planned.is_pytest, planned.args, planned.retries.count) == (True, [], 0)
    assert RunJob(RUN_JOB).definition == "unit"


def test_unknown_members_stay_in_what_is_printed_and_sent_back() -> None:
    plan = Plan({**PLAN, "newer": {"a": 1}})
    changed = plan.with_jobs([plan.jobs[0].with_args(["-x"])])
    assert changed.fields == {
        **PLAN,
        "newer": {"a": 1},
        "jobs": [{"name": "unit", "stage": "test", "args": ["-x"]}],
    }
    assert (plan.jobs[0].args, changed.jobs[0].args) == ([], ["-x"])


@pytest.mark.parametrize(
    ("parse", "raw", "message"),
    [
        (Run, [], ""),
        (Run, None, ""),
        (Run, {"run_id": "r"}, "pipeline is missing"),
        (Run, {**RUN, "jobs": {}}, "jobs is of another type"),
        (Run, {**RUN, "jobs": [RUN_JOB, 3]}, "jobs: item 1 is of another type"),
        (Run, {**RUN, "jobs": [{**RUN_JOB, "success": "yes"}]}, "jobs: item 0: success is of another type"),
        (Run, {**RUN, "number": True}, "number is of another type"),
        (Run, {**RUN, "number": 1 << 60}, "number is of another type"),
        (Job, {"job_id": "j", "status": "x", "counts": "odd"}, "counts is of another type"),
        (Job, {"job_id": "j", "status": "x", "counts": {"a": 0.5}}, "counts is of another type"),
        (RunJob, {**RUN_JOB, "past_seconds": float("inf")}, "past_seconds is of another type"),
        (RunJob, {**RUN_JOB, "past_seconds": float("nan")}, "past_seconds is of another type"),
        (Plan, {**PLAN, "stage_timeouts": {"test": "1"}}, "stage_timeouts is of another type"),
        (answers.texts, ["a", 1], "item 1 is of another type"),
        (answers.report_of, {"name": "x"}, "status is missing"),
    ],
)
def test_a_wrong_shape_is_refused_in_one_line(
    parse: Callable[[object], object], raw: Any, message: str
) -> None:
    with pytest.raises(AnswerError) as caught:
        parse(raw)
    assert str(caught.value) == message
