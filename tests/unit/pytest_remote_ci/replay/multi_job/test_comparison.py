"""Which tests differ between jobs that run the same suite."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pytest_remote_ci.replay.multi_job.comparison import Comparison


def label_of(nodeid: str) -> tuple[str, str] | None:
    job, slash, plain = nodeid.partition("/")
    return None if not slash or job == "gone" else (job, plain)


def report(comparison: Comparison, nodeid: str, outcome: str, when: str = "call", **more: object) -> None:
    skipped = outcome == "skipped"
    made: Any = SimpleNamespace(
        nodeid=nodeid, outcome=outcome, when=when, failed=outcome == "failed", skipped=skipped, **more
    )
    comparison.pytest_runtest_logreport(made)


def test_only_tests_with_different_outcomes_are_named() -> None:
    comparison = Comparison(label_of)
    for job in ("a", "b"):
        for when in ("setup", "call", "teardown"):
            report(comparison, f"{job}/same", "passed", when)
    for when in ("setup", "call", "teardown"):
        report(comparison, "a/breaks", "passed", when)
    report(comparison, "b/breaks", "failed", "setup")
    report(comparison, "a/expected", "skipped", wasxfail="")
    report(comparison, "b/expected", "passed", wasxfail="")
    report(comparison, "a/only_here", "failed")
    report(comparison, "gone/same", "failed")
    assert comparison.lines() == [
        "breaks: error with b; passed with a",
        "expected: xfailed with a; xpassed with b",
    ]


def test_many_differences_are_a_few_lines() -> None:
    comparison = Comparison(label_of)
    for number in range(25):
        report(comparison, f"a/t{number}", "passed")
        report(comparison, f"b/t{number}", "failed")
    lines = comparison.lines()
    assert len(lines) == 21
    assert lines[-1] == "5 more tests differ between the jobs"
