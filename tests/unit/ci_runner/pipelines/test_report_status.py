"""The five words, and the one truth table by which stages and runs get theirs."""

from __future__ import annotations

import itertools

import pytest

from ci_runner.pipelines.report_status import ExecutionStatus, Part, of_job, overall
from pytest_remote_ci.wire.protocol import Status

P, R, S, F, C = ExecutionStatus
ALLOWED = Part(F, allow_failure=True)
LEFT_OUT = Part(P, skipped=True)


@pytest.mark.parametrize(
    ("status", "success", "word"),
    [
        ("queued", None, P),
        ("running", None, R),
        ("completed", True, S),
        ("completed", False, F),
        ("failed", None, F),
        ("failed", False, F),
        ("cancelled", None, C),
    ],
)
def test_our_statuses_have_one_word_each(status: Status, success: bool | None, word: ExecutionStatus) -> None:
    assert of_job(status, success) is word


@pytest.mark.case("B61")
@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ([], P),
        ([P], P),
        ([R], R),
        ([S], S),
        ([F], F),
        ([C], C),
        ([P, P], P),
        ([S, S], S),
        ([S, P], R),
        ([R, P], R),
        ([R, S], R),
        ([C, S], C),
        ([C, P], C),
        ([C, R], C),
        ([F, S], F),
        ([F, P], F),
        ([F, R], F),
        ([F, C], F),
        ([S, F, S], F),
        ([ALLOWED], S),
        ([ALLOWED, S], S),
        ([ALLOWED, P], R),
        ([ALLOWED, R], R),
        ([ALLOWED, F], F),
        ([ALLOWED, C], C),
        ([LEFT_OUT], S),
        ([LEFT_OUT, P], P),
        ([LEFT_OUT, F], F),
        ([LEFT_OUT, S], S),
    ],
    ids=str,
)
def test_the_truth_table(parts: list[ExecutionStatus | Part], word: ExecutionStatus) -> None:
    made = [part if isinstance(part, Part) else Part(part) for part in parts]
    for order in itertools.permutations(made):
        assert overall(order) is word


@pytest.mark.defect(6)
def test_a_good_stage_after_a_failed_one_does_not_hide_it() -> None:
    """The reference system's status took the last stage's word."""
    assert overall([Part(F), Part(S)]) is F


def test_each_word_is_described_and_three_of_them_are_ends() -> None:
    assert all(word.description for word in ExecutionStatus)
    assert [word for word in ExecutionStatus if word.is_over] == [S, F, C]
