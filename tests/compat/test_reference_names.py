"""The reference system's data transfer objects: each has a typed, frozen counterpart that a named route really uses."""

from __future__ import annotations

import ast
import dataclasses
import enum
import re
from pathlib import Path
from typing import Any

import pytest

from ci_runner.model import job
from ci_runner.pipelines import plan, report, report_status, request, run
from ci_runner.server.openapi.document import document
from ci_runner.store import run_events

ROOT = Path(__file__).parents[2]
#: Ours → the modules that take or give it for its route.
USED_IN: dict[type[Any], tuple[str, ...]] = {
    request.RunRequest: ("server/resources/runs.py",),
    plan.Plan: ("server/resources/pipeline_plan.py", "pipelines/request.py"),
    run.Run: ("server/resources/runs.py",),
    run.PlannedState: ("store/runs.py",),
    report.ReportQuery: ("server/resources/reports.py",),
    report.PipelineReport: ("pipelines/report.py",),
    report.StageReport: ("pipelines/report.py",),
    report.JobReport: ("pipelines/report.py",),
    report.JobExecution: ("pipelines/report.py",),
    run_events.FeedItem: ("store/run_events.py",),
    job.Artifact: ("store/artifacts.py",),
    report_status.ExecutionStatus: ("pipelines/run.py",),
}
ROWS = re.findall(
    r"^\| ([^|]+) \| `(\w+)` \| `(\w+) ([^`]+)` \|$",
    (ROOT / "docs/guide/runs.md").read_text("utf-8"),
    re.MULTILINE,
)
#: Seed 002's types that have a counterpart.
SEED = [
    "ArtifactUploadRequest",
    "JobExecutionRequest",
    "JobStatusUpdate",
    "PipelineExecutionRequest",
    "ReportRequest",
    "JobExecutionResponse",
    "JobReportResponse",
    "PipelineExecutionResponse",
    "PipelineReportResponse",
    "StageReportResponse",
    "JobDTO",
    "JobExecutionDTO",
    "PipelineDTO",
    "PipelineExecutionDTO",
    "StageDTO",
    "StageExecutionDTO",
    "ExecutionLog",
    "Job",
    "JobExecution",
    "Pipeline",
    "PipelineExecution",
    "Stage",
    "StageExecution",
    "ExecutionStatus",
    "PipelineReportDTO",
    "StageReportDTO",
    "JobReportDTO",
]


def test_the_table_has_each_of_the_seed_s_types_once() -> None:
    named = [name for row in ROWS for name in row[0].split(", ") if not name.startswith("(")]
    assert sorted(named) == sorted(SEED)


def test_the_table_names_classes_and_routes_that_there_are() -> None:
    ours = {kind.__name__ for kind in USED_IN}
    assert {row[1] for row in ROWS} == ours
    paths = document()["paths"]
    for _, _, method, path in ROWS:
        assert method.lower() in paths[path], (method, path)


@pytest.mark.parametrize("kind", USED_IN, ids=lambda kind: kind.__name__)
def test_each_is_typed_and_frozen(kind: type[Any]) -> None:
    if issubclass(kind, enum.Enum):
        assert [word.value for word in kind] == ["PENDING", "RUNNING", "SUCCESS", "FAILED", "CANCELED"]
        return
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", USED_IN, ids=lambda kind: kind.__name__)
def test_a_route_makes_or_parses_each(kind: type[Any]) -> None:
    """Its name is called, or a constructor of its class is, where the route gets its values."""
    for module in USED_IN[kind]:
        tree = ast.parse((ROOT / "ci_runner" / module).read_text("utf-8"))
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert kind.__name__ in used, module
