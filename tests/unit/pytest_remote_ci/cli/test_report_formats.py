"""Reports of runs as text, JSON, JUnit XML and HTML: pure functions of what the runner gives."""

from __future__ import annotations

import json
import os
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_remote_ci.cli.report_formats import junit, page, rendered, report_time, reports_in, text

EXECUTION = {
    "id": "e1",
    "status": "FAILED",
    "startTime": "2026-01-01T11:00:00.000000Z",
    "completionTime": "2026-01-01T11:00:02.500000Z",
    "allowFailure": False,
    "exitCode": 1,
    "reason": None,
}
JOB = {
    "name": "tests <x>",
    "executions": [EXECUTION],
    "pipelineName": "ci",
    "runNumber": 3,
    "commitHash": None,
    "stageName": "test",
    "status": "FAILED",
    "reason": None,
}
DROPPED = {
    **JOB,
    "name": "late",
    "executions": [],
    "status": "CANCELED",
    "reason": "needs 'tests', which failed",
}
STAGE = {
    "id": "s1",
    "name": "test",
    "status": "FAILED",
    "startTime": EXECUTION["startTime"],
    "completionTime": None,
    "jobs": [JOB, DROPPED],
}
PIPELINE = {
    "id": "p1",
    "name": "ci",
    "runNumber": 3,
    "commitHash": "abc",
    "status": "FAILED",
    "startTime": None,
    "completionTime": None,
    "stages": [STAGE],
    "reason": None,
}


@pytest.fixture(autouse=True)
def utc() -> Iterator[None]:
    """Local times of a known zone."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    yield
    os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
    time.tzset()


@pytest.mark.case("B54")
def test_text_has_the_reference_system_s_labels() -> None:
    assert text(reports_in(PIPELINE)).splitlines() == [
        "Pipeline ID: p1",
        "Pipeline Name: ci",
        "Run Number: 3",
        "Commit Hash: abc",
        "Status: FAILED",
        "Start Time: N/A",
        "Completion Time: In Progress",
        "Stages:",
        "  Stage ID: s1",
        "  Stage Name: test",
        "  Status: FAILED",
        "  Start Time: 2026-01-01 11:00:00",
        "  Completion Time: In Progress",
        "  Jobs:",
        "    Job Name: tests <x>",
        "    Run Number: 3",
        "    Stage Name: test",
        "    Commit Hash: N/A",
        "    Executions:",
        "      Execution ID: e1",
        "      Status: FAILED",
        "      Allow Failure: false",
        "      Start Time: 2026-01-01 11:00:00",
        "      Completion Time: 2026-01-01 11:00:02",
        "    Job Name: late",
        "    Run Number: 3",
        "    Stage Name: test",
        "    Commit Hash: N/A",
        "    Status: CANCELED (needs 'tests', which failed)",
    ]
    assert "Pipeline Name: ci" in text(reports_in({**STAGE, "pipelineName": "ci"})), (
        "only in a stage's own report"
    )
    two = text(reports_in([PIPELINE, {**PIPELINE, "id": "p0"}]))
    assert f"\n\n{'-' * 40}\nPipeline ID: p0\n" in two


@pytest.mark.case("B53")
def test_json_is_pretty_and_has_no_empty_pipeline_name() -> None:
    shown = rendered({**PIPELINE, "pipelineName": None}, "json")
    assert json.loads(shown) == PIPELINE
    assert shown.startswith('{\n  "id": "p1",\n')
    assert json.loads(rendered([{"pipelineName": "ci", "x": [{"pipelineName": None}]}], "json")) == [
        {"pipelineName": "ci", "x": [{}]}
    ]


@pytest.mark.case("B55")
@pytest.mark.parametrize("report", [{"error": "x"}, [1], "text", {"stages": 3}])
def test_an_unknown_shape_is_shown_as_it_came(report: Any) -> None:
    for form in ("text", "json"):
        assert json.loads(rendered(report, form)) == report


@pytest.mark.case("B56")
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("2026-01-01T11:00:00.123456Z", "2026-01-01 11:00:00"),
        ("2026-01-01T11:00:00+02:00", "2026-01-01 09:00:00"),
        (None, "N/A"),
        ("", "N/A"),
        ("yesterday", "yesterday"),
    ],
)
def test_times_are_local_and_junk_stays(value: str | None, shown: str) -> None:
    assert report_time(value) == shown


def test_junit_has_a_suite_per_stage_and_a_case_per_job() -> None:
    allowed = {**JOB, "name": "odd", "executions": [{**EXECUTION, "allowFailure": True}]}
    good = {**JOB, "name": "good", "status": "SUCCESS", "executions": [{**EXECUTION, "status": "SUCCESS"}]}
    root = ElementTree.fromstring(
        junit(reports_in({**PIPELINE, "stages": [{**STAGE, "jobs": [JOB, DROPPED, allowed, good]}]}))
    )
    (suite,) = root
    assert {key: suite.get(key) for key in ("name", "tests", "failures", "skipped")} == {
        "name": "ci#3 test",
        "tests": "4",
        "failures": "1",
        "skipped": "2",
    }
    cases = {case.get("name"): case for case in suite}
    assert cases["tests <x>"].get("time") == "2.500"
    (failure,) = cases["tests <x>"].iter("failure")
    assert failure.get("message") == "exit code 1"
    (skipped,) = cases["odd"].iter("skipped")
    assert skipped.get("message") == "failed, allowed: exit code 1"
    assert list(cases["good"]) == []
    for alone in (JOB, {**STAGE, "pipelineName": "ci", "runNumber": 3}, [PIPELINE]):
        assert len(list(ElementTree.fromstring(junit(reports_in(alone))))) == 1


def test_the_page_escapes_what_it_shows() -> None:
    shown = page(reports_in(PIPELINE))
    assert "<td>tests &lt;x&gt;</td>" in shown
    assert "<x>" not in shown
    assert "needs &#x27;tests&#x27;, which failed" in shown
