"""From reports to results, and from results to what they say together."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from msgspec import to_builtins

from ci_runner.model.job import JobEvent
from ci_runner.model.test_results import (
    MAX_NODE_ID,
    OUTCOMES,
    Outcome,
    TestHistory,
    TestResult,
    history,
    parts,
)
from ci_runner.server import schemas

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)


def report(when: str, outcome: str, status: object = None, **data: Any) -> dict[str, Any]:
    """A record as the recorder makes it."""
    fields: dict[str, Any] = {
        "d": {"nodeid": "t.py::x", "when": when, "outcome": outcome, "duration": 0.5, **data}
    }
    return {"t": "report", **fields, **({"status": status} if status is not None else {})}


def passed(when: str) -> dict[str, Any]:
    """The same of a phase of which nothing is said but that it passed."""
    return {"t": "passed", "id": "t.py::x", "when": when, "duration": 0.5}


def event(*records: dict[str, Any]) -> JobEvent:
    fields = records[0] if len(records) == 1 else {"t": "several", "of": list(records)}
    return JobEvent("report", timestamp=NOON, fields=fields)


def outcome_of(*records: dict[str, Any]) -> str:
    [part] = parts([event(record) for record in records], NOON).values()
    return OUTCOMES[part.rank]


SETUP, CALL, TEARDOWN = (report(when, "passed") for when in ("setup", "call", "teardown"))


@pytest.mark.parametrize(
    ("records", "outcome"),
    [
        ([SETUP, CALL, TEARDOWN], "passed"),
        ([passed("setup"), passed("call"), passed("teardown")], "passed"),
        ([passed("setup")], "unfinished"),
        ([passed("setup"), report("call", "failed"), passed("teardown")], "failed"),
        ([SETUP], "unfinished"),
        ([SETUP, report("call", "failed"), TEARDOWN], "failed"),
        ([report("setup", "failed"), TEARDOWN], "error"),
        ([SETUP, CALL, report("teardown", "failed")], "error"),
        ([report("setup", "skipped"), TEARDOWN], "skipped"),
        ([SETUP, report("call", "skipped"), TEARDOWN], "skipped"),
        ([SETUP, report("call", "skipped", wasxfail="why"), TEARDOWN], "xfailed"),
        ([SETUP, report("call", "passed", wasxfail=""), TEARDOWN], "xpassed"),
        ([SETUP, report("call", "failed", ["xfailed", "x", "XFAIL"]), TEARDOWN], "xfailed"),
        ([SETUP, report("call", "passed", ["oddly", "?", "ODD"]), TEARDOWN], "unfinished"),
        ([SETUP, report("call", "rerun", ["rerun", "R", "RERUN"]), SETUP, CALL, TEARDOWN], "passed"),
    ],
)
def test_the_worst_phase_counts_as_pytest_counts_it(records: list[dict[str, Any]], outcome: str) -> None:
    assert outcome_of(*records) == outcome
    [together] = parts([event(*records, {"t": "terminal"})], NOON).values()
    assert OUTCOMES[together.rank] == outcome, "also in one record"
    assert together.duration == pytest.approx(0.5 * len(records))


@pytest.mark.parametrize(
    ("records", "outcome"),
    [
        ([report("call", "failed"), report("teardown", "skipped")], "failed"),
        ([report("setup", "failed"), report("call", "failed")], "error"),
        ([report("call", "failed", wasxfail="x", status=["failed", "F", "x"]), CALL], "failed"),
        ([report("call", "skipped", wasxfail="why"), CALL], "xfailed"),
    ],
)
def test_the_worst_counts_whatever_comes_last(records: list[dict[str, Any]], outcome: str) -> None:
    for order in (records, records[::-1]):
        assert outcome_of(*order) == outcome
        [together] = parts([event(*order)], NOON).values()
        assert OUTCOMES[together.rank] == outcome


def test_reruns_are_counted() -> None:
    again = report("call", "rerun", ["rerun", "R", "RERUN"])
    [part] = parts([event(SETUP, again, SETUP, again, SETUP, CALL)], NOON).values()
    assert part.reruns == 2


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"t": "report"},
        {"t": "report", "d": 3},
        {"t": "report", "d": {}},
        {"t": "report", "d": {"nodeid": ""}},
        {"t": "report", "d": {"nodeid": 7}},
        {"t": "several"},
        {"t": "several", "of": [3, {"t": "report"}]},
        {"t": "exception", "d": {"nodeid": "x"}},
        {"t": "passed"},
        {"t": "passed", "id": 7, "when": "call"},
        {"t": "passed", "d": {"nodeid": "x"}},
    ],
)
def test_what_makes_no_sense_counts_as_nothing(fields: dict[str, Any]) -> None:
    assert parts([JobEvent("report", fields=fields)], NOON) == {}


@pytest.mark.parametrize("value", ["NaN", "Infinity", None, True, -5, float("nan"), float("inf"), [1]])
def test_durations_that_are_none_are_nothing(value: Any) -> None:
    [part] = parts([event(report("call", "passed", duration=value))], NOON).values()
    assert part.duration == 0


def test_what_is_no_report_keeps_none_from_being_counted() -> None:
    failure = report("call", "failed")
    others = [JobEvent("log", "text"), JobEvent("report", fields={"t": "collected"})]
    [part] = parts([*others, event(failure)], NOON).values()
    assert OUTCOMES[part.rank] == "failed"
    for other in (3, {"t": "terminal"}, {"t": "passed"}):
        several = JobEvent("report", timestamp=NOON, fields={"t": "several", "of": [other, failure]})
        [part] = parts([several], NOON).values()
        assert OUTCOMES[part.rank] == "failed"


def test_a_test_is_as_old_as_its_first_report() -> None:
    later = NOON + dt.timedelta(hours=1)
    [part] = parts([event(SETUP), replace(event(CALL), timestamp=later)], later).values()
    assert part.at == NOON
    [part] = parts([replace(event(CALL), timestamp=None)], later).values()
    assert part.at == later


@pytest.mark.parametrize("record", [report("setup", "passed", wasxfail=""), report("call", "oddly")])
def test_a_phase_that_says_nothing_counts_as_nothing(record: dict[str, Any]) -> None:
    assert outcome_of(record) == "unfinished"


def test_a_history_counts_its_runs_and_has_the_last() -> None:
    found = runs("ppfpxu")
    assert found.counts == {"passed": 3, "failed": 1, "xfailed": 1, "unfinished": 1}
    assert found.node_id == "t"
    assert found.last.job_id == "job5"


def test_owners_see_one_result_as_it_is() -> None:
    result = TestResult("t.py::x", "xpassed", 0.12345678, 3, NOON, "job", "w")
    assert to_builtins(schemas.TestResult.of(result)) == {
        "id": "t.py::x",
        "outcome": "xpassed",
        "duration": 0.123457,
        "reruns": 3,
        "at": "2026-01-01T12:00:00.000000Z",
    }


def test_owners_see_all_that_a_history_says() -> None:
    seconds = (0.11111111, 0.22222222, 0.33333333, 0.44444444)
    assert to_builtins(schemas.TestHistory.of(runs("pffs", "wwww", seconds))) == {
        "id": "t",
        "counts": {"passed": 1, "failed": 2, "skipped": 1},
        "pass_rate": pytest.approx(1 / 3),
        "duration": 0.222222,
        "before": None,
        "now": None,
        "reruns": 0,
        "flaky_workspaces": 1,
        "flaky": True,
        "failing_since": {"job_id": "job1", "at": "2026-01-01T13:00:00.000000Z"},
        "last": {
            "id": "t",
            "outcome": "skipped",
            "duration": 0.444444,
            "reruns": 0,
            "at": "2026-01-01T15:00:00.000000Z",
            "job_id": "job3",
        },
    }
    found = schemas.TestHistory.of(runs("pppp", seconds=seconds))
    assert (found.before, found.now, found.failing_since) == (0.166667, 0.388889, None)


def test_claims_are_bounded() -> None:
    wild = report("call", "passed", nodeid="x" * 9999, duration=1e300, wasxfail={"a": 1})
    [(node_id, part)] = parts([event(wild)], NOON).items()
    assert len(node_id) == MAX_NODE_ID
    assert part.duration == 1e6
    for status in (3, [], [3], "passed", {"a": 1}):  # no record, so it claims nothing
        assert parts([event(report("call", "passed", status=status))], NOON) == {}


def runs(text: str, workspaces: str = "", seconds: tuple[float, ...] = ()) -> TestHistory:
    """History of a test by letters, oldest first: p, f, e, s, x, X, u."""
    words: dict[str, Outcome] = {
        "p": "passed",
        "f": "failed",
        "e": "error",
        "s": "skipped",
        "x": "xfailed",
        "X": "xpassed",
    }
    return history(
        [
            TestResult(
                "t",
                words.get(letter, "unfinished"),
                seconds[number] if seconds else 1.0,
                0,
                NOON + dt.timedelta(hours=number),
                f"job{number}",
                workspaces[number] if workspaces else f"w{number}",
            )
            for number, letter in enumerate(text)
        ]
    )


@pytest.mark.parametrize(
    ("text", "rate"), [("pppf", 0.75), ("sss", None), ("x", 1.0), ("e", 0.0), ("pXf", 0.5), ("psu", 1.0)]
)
def test_the_pass_rate_is_of_those_with_a_verdict(text: str, rate: float | None) -> None:
    assert runs(text).pass_rate == rate


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("ppff", "job2"),
        ("pfpf", "job3"),
        ("pf", "job1"),
        ("pfs", "job1"),
        ("pfue", "job1"),
        ("ff", None),
        ("pp", None),
        ("pffp", None),
        ("s", None),
        ("xe", "job1"),
    ],
)
def test_failing_since_is_the_first_failure_after_the_last_success(text: str, since: str | None) -> None:
    found = runs(text).failing_since
    assert (found[0] if found else None) == since


@pytest.mark.parametrize(
    ("text", "workspaces", "flaky"),
    [
        ("pf", "aa", 1),
        ("pf", "ab", 0),
        ("pfpf", "aabb", 2),
        ("ps", "aa", 0),
        ("ff", "aa", 0),
        ("pe", "aa", 1),
    ],
)
def test_flaky_is_both_outcomes_on_one_workspace(text: str, workspaces: str, flaky: int) -> None:
    found = runs(text, workspaces)
    assert (found.flaky_workspaces, found.is_flaky) == (flaky, flaky > 0)


def test_who_passes_at_the_second_try_is_flaky_too() -> None:
    again = TestResult("t", "passed", 1.0, 2, NOON, "job", "w")
    assert history([again]).is_flaky
    assert not history([TestResult("t", "failed", 1.0, 2, NOON, "job", "w")]).is_flaky


def test_the_trend_compares_older_and_newer_half() -> None:
    found = runs("pppp", seconds=(1.0, 1.0, 3.0, 5.0))
    assert (found.duration, found.before, found.now) == (2.5, 1.0, 4.0)
    assert (runs("ppp").before, runs("ppp").now) == (None, None)
    assert runs("spp", seconds=(0.0, 2.0, 4.0)).duration == 3.0, "a test that was skipped says nothing"
    assert runs("s").duration == 0.0
