"""What a repetition runs again, and what it takes over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.pipelines import plan_of, planned

from ci_runner.errors import Conflict, InvalidSubmission
from ci_runner.pipelines.rerun import reusable
from ci_runner.pipelines.scheduler import Facts

PASSED = Facts("p", status="completed", success=True, exit_code=0)
FAILED = Facts("f", status="completed", success=False, exit_code=1)
DROPPED = Facts(dropped="needs 'b', which failed")

PLAN = plan_of(
    planned("a", "x", stage="one"),
    planned("b", "x", stage="one"),
    planned("odd", "x", stage="one", allow_failure=True),
    planned("c", "x", stage="two", needs=("a",)),
    planned("d", "x", stage="two", needs=("b", "odd")),
)
FACTS = {"a": PASSED, "b": FAILED, "odd": FAILED, "c": PASSED, "d": DROPPED}
GOOD = {**FACTS, "b": PASSED, "d": PASSED}


@pytest.mark.parametrize(
    ("facts", "wanted", "taken_over"),
    [
        (FACTS, {}, ""),
        (FACTS, {"failed": True}, "a odd c"),
        (GOOD, {"stage": "two"}, "a b odd"),
        (GOOD, {"job": "a"}, "b odd d"),
        (GOOD, {"stage": "one", "job": "odd"}, "a b c"),
        (FACTS, {"job": "c"}, "a odd"),
    ],
    ids=[
        "all",
        "what failed",
        "a stage",
        "a job and what depends on it",
        "a job of a stage",
        "also what failed",
    ],
)
def test_what_is_taken_over(facts: dict[str, Facts], wanted: dict[str, Any], taken_over: str) -> None:
    assert sorted(reusable(PLAN, facts, **wanted)) == sorted(taken_over.split())


def test_what_was_left_out_is_left_out_again() -> None:
    plan = plan_of(replace(PLAN.jobs[0], skipped="nothing changed"), *PLAN.jobs[1:])
    assert sorted(reusable(plan, {**FACTS, "a": Facts()}, failed=True)) == ["c", "odd"]


def test_where_nothing_failed_there_is_nothing_to_repeat() -> None:
    with pytest.raises(Conflict, match="Nothing failed"):
        reusable(PLAN, GOOD, failed=True)


@pytest.mark.parametrize(
    ("wanted", "words"), [({"stage": "nine"}, "no stage 'nine'"), ({"job": "z"}, "no job 'z'")]
)
def test_a_stage_or_job_that_is_none(wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSubmission, match=words):
        reusable(PLAN, GOOD, **wanted)
