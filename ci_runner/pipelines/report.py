"""Reports on runs, stages and jobs, with the reference system's words and fields: typed, frozen, for JSON.

A report is made from one run and the states of its jobs, without access to a database or HTTP. `commitHash` is the
digest of the workspace, which identifies exactly the files that ran.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

from msgspec import Meta, to_builtins

from ci_runner.errors import NotFound
from ci_runner.model.field_types import Count, Digest, Time, Uuid
from ci_runner.model.job import Job, format_time
from ci_runner.pipelines.report_status import ExecutionStatus, of_job, overall
from ci_runner.pipelines.run import PlannedState, Run
from ci_runner.pipelines.scheduler import part_of

#: The value of an `ExecutionStatus`.
Word = Annotated[str, Meta(extra_json_schema={"enum": [word.value for word in ExecutionStatus]})]

_NAMESPACE: Final = uuid.UUID("0e4c2f55-8f0a-4f7e-9a54-1d4f1c8f0c11")


@dataclass(frozen=True)
class JobExecution:
    """One try of a planned job."""

    id: Uuid
    status: Word
    startTime: Time | None
    completionTime: Time | None
    allowFailure: bool
    exitCode: int | None
    reason: str | None


@dataclass(frozen=True)
class JobReport:
    """A planned job and all its tries, newest first."""

    name: str
    executions: tuple[JobExecution, ...]
    pipelineName: str
    runNumber: Count
    commitHash: Digest
    stageName: str
    #: Does not consider `allow_failure`: an allowed failure is FAILED.
    status: Word
    #: Why it has no execution: left out, or dropped.
    reason: str | None


@dataclass(frozen=True)
class StageReport:
    """A stage of one run."""

    id: Uuid
    name: str
    status: Word
    startTime: Time | None
    completionTime: Time | None
    jobs: tuple[JobReport, ...]
    pipelineName: str | None = None
    runNumber: int | None = None
    commitHash: Digest | None = None


@dataclass(frozen=True)
class PipelineReport:
    """One run of a pipeline."""

    id: Uuid
    name: str
    runNumber: Count
    commitHash: Digest
    status: Word
    startTime: Time | None
    completionTime: Time | None
    stages: tuple[StageReport, ...]
    reason: str | None
    pipelineName: str | None = None


@dataclass(frozen=True)
class ReportQuery:
    """The requested report: the more fields are set, the less it covers."""

    pipelineName: str | None = None
    runNumber: int | None = None
    stageName: str | None = None
    jobName: str | None = None
    status: str | None = None
    since: dt.datetime | None = field(default=None)


def to_dict(report: PipelineReport | StageReport | JobReport) -> dict[str, object]:
    """Return the report for JSON; a `pipelineName` of None is left out."""
    result: dict[str, object] = to_builtins(report)
    if result.get("pipelineName") is None:
        result.pop("pipelineName", None)
    return result


def pipeline_report(run: Run, states: Sequence[PlannedState], executions: Iterable[Job]) -> PipelineReport:
    """Return the report of one run, with its stages and jobs."""
    tries = list(executions)
    stages = tuple(_stage(run, stage, states, tries) for stage in run.plan.stages)
    return PipelineReport(
        run.id,
        run.pipeline,
        run.number,
        run.workspace,
        run.word.value,
        format_time(run.start_time),
        format_time(run.end_time),
        stages,
        run.reason,
    )


def stage_report(
    run: Run, stage: str, states: Sequence[PlannedState], executions: Iterable[Job]
) -> StageReport:
    """Return the report of one stage; raises `NotFound`."""
    if stage not in run.plan.stages:
        raise NotFound("No executions found for stage", stage)
    report = _stage(run, stage, states, list(executions))
    return StageReport(
        **{**vars(report), "pipelineName": run.pipeline, "runNumber": run.number, "commitHash": run.workspace}
    )


def job_report(
    run: Run, stage: str, job: str, states: Sequence[PlannedState], executions: Iterable[Job]
) -> JobReport:
    """Return the report of one planned job, or of the first cell of a definition; raises `NotFound`."""
    report = stage_report(run, stage, states, executions)
    definitions = {state.planned.name: state.planned.definition for state in states}
    for wanted in (lambda name: name == job, lambda name: definitions.get(name) == job):
        for found in report.jobs:
            if wanted(found.name):
                return found
    raise NotFound("Job execution not found for job", job)


def _stage(run: Run, stage: str, states: Sequence[PlannedState], tries: Sequence[Job]) -> StageReport:
    mine = [state for state in states if state.planned.stage == stage]
    status = overall(part_of(state.planned, state.facts) for state in mine)
    started = [state.job.start_time for state in mine if state.job and state.job.start_time]
    ended = [state.job.end_time for state in mine if state.job and state.job.end_time]
    return StageReport(
        str(uuid.uuid5(_NAMESPACE, f"{run.id}/{stage}")),
        stage,
        status.value,
        format_time(min(started, default=None)),
        format_time(max(ended, default=None)) if status.is_over or run.is_over else None,
        tuple(_job(run, state, tries) for state in mine),
    )


def _job(run: Run, state: PlannedState, tries: Sequence[Job]) -> JobReport:
    planned = state.planned
    mine = [job for job in tries if job.planned == planned.name]
    if state.reused and state.job is not None:
        mine = [state.job]
    executions = tuple(
        JobExecution(
            job.id,
            of_job(job.status, job.success).value,
            format_time(job.start_time),
            format_time(job.end_time),
            planned.allow_failure,
            job.exit_code,
            job.reason,
        )
        for job in sorted(mine, key=lambda job: -job.retry)
    )
    return JobReport(
        planned.name,
        executions,
        run.pipeline,
        run.number,
        run.workspace,
        planned.stage,
        state.facts.word.value,
        planned.skipped or state.facts.dropped,
    )
