"""Bodies of the API's requests and responses: one type each, checked by msgspec and described by the OpenAPI document.

The names of these types are the names of the schemas. Types that other packages use, too, are where they are made:
`Job.summary`, `pipelines.report`, `pipelines.request`, `pipelines.check`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from ci_runner.model import job, test_results
from ci_runner.model.field_types import (
    Count,
    Counts,
    Digest,
    FromOne,
    HostName,
    Protocol,
    Seconds,
    Time,
    Uuid,
)
from ci_runner.model.job import JobTiming, format_time
from ci_runner.model.test_results import Outcome
from ci_runner.pipelines import run
from ci_runner.pipelines.request import RunRequest
from ci_runner.storage import kept_folders
from ci_runner.store import test_results as stored
from pytest_remote_ci.wire.changes import ChangeKind
from pytest_remote_ci.wire.protocol import LogStream, Phase, Status, SubmitOptions


class Body(Struct, kw_only=True, forbid_unknown_fields=True):
    """A JSON object with these fields and no others."""


class Error(Struct, kw_only=True, frozen=True):
    """Why a request failed."""

    detail: Annotated[str, Meta(description="what is wrong and what to do")]


class JobCreated(Body):
    """An accepted submission."""

    job_id: Uuid


Digests = list[Digest]


# -- artifacts and tests


class Artifact(Body):
    """A file that a job left behind."""

    path: Annotated[str, Meta(description="relative to the project")]
    size: Count
    sha256: Digest
    executable: bool
    kept_until: Time

    @classmethod
    def of(cls, item: job.Artifact) -> Artifact:
        """Return what the artifact's owner sees."""
        assert item.kept_until is not None, "stored artifacts have an end"
        return cls(
            path=item.path,
            size=item.size,
            sha256=item.sha256,
            executable=bool(item.mode & 0o100),
            kept_until=format_time(item.kept_until),
        )


class KeptFolder(Body):
    """What jobs of a project left for the next one, by pattern."""

    root: Annotated[str, Meta(description="the project's folder on the client")]
    job: Annotated[str, Meta(description="the job of a pipeline; empty for a job of its own")]
    pattern: Annotated[str, Meta(description="an item of the option `keep`")]
    files: Count
    bytes: Count
    at: Annotated[Time, Meta(description="when it was replaced last")]
    problem: Annotated[str | None, Meta(description="why the last job's files did not replace it")]

    @classmethod
    def of(cls, item: kept_folders.KeptFolder) -> KeptFolder:
        """Return what the jobs' owner sees."""
        return cls(
            root=item.root,
            job=item.job,
            pattern=item.pattern,
            files=item.files,
            bytes=item.size,
            at=format_time(dt.datetime.fromtimestamp(item.at, dt.timezone.utc)),
            problem=item.problem,
        )


class Cleared(Body):
    """What was removed."""

    removed: Annotated[Count, Meta(description="patterns for which something was kept")]


class Change(Body):
    """A file of the project that a job created, changed or deleted."""

    path: Annotated[str, Meta(description="relative to the project")]
    kind: ChangeKind
    size: Count
    sha256: Annotated[
        Digest | None, Meta(description="of the content; null if it was deleted, or is not stored")
    ]
    executable: bool
    before: Annotated[Digest | None, Meta(description="of the submitted content; null if it was created")]

    @classmethod
    def of(cls, item: job.Artifact) -> Change:
        """Return what the job's owner sees."""
        assert item.change is not None, "a change has a kind"
        return cls(
            path=item.path,
            kind=item.change,
            size=item.size,
            sha256=item.sha256 or None,
            executable=bool(item.mode & 0o100),
            before=item.before,
        )


class Changes(Body):
    """What a job did to files of the project."""

    root: Annotated[str | None, Meta(description="where the project lies on the client")]
    files: Annotated[list[Change], Meta(description="in the order of paths")]


class TestResult(Body):
    """The result of one test in one job."""

    __test__ = False

    id: Annotated[str, Meta(description="pytest's node id")]
    outcome: Outcome
    duration: Annotated[Seconds, Meta(description="seconds of all phases")]
    reruns: Count
    at: Time

    @staticmethod
    def of(item: test_results.TestResult) -> TestResult:
        """Return what the job's owner sees."""
        return TestResult(
            id=item.node_id,
            outcome=item.outcome,
            duration=round(item.duration, 6),
            reruns=item.reruns,
            at=format_time(item.at),
        )


class LastResult(TestResult):
    """The newest result of a test."""

    job_id: str


class RecordedJob(Body):
    """A job in a report on tests."""

    job_id: str
    workspace: Digest | None
    at: Time
    counts: Counts
    duration: Seconds

    @classmethod
    def of(cls, item: stored.Run) -> RecordedJob:
        """Return what the job's owner sees."""
        return cls(
            job_id=item.job_id,
            workspace=item.workspace,
            at=format_time(item.at),
            counts=dict(item.counts),
            duration=round(item.duration, 6),
        )


class FailingSince(Struct, kw_only=True, frozen=True):
    """The first of a test's failures that no success followed."""

    job_id: str
    at: Time


class TestHistory(Body):
    """The history of one test over several jobs."""

    __test__ = False

    id: str
    counts: Counts
    pass_rate: Annotated[float, Meta(ge=0, le=1)] | None
    duration: Seconds
    before: Annotated[Seconds | None, Meta(description="mean of the older half")]
    now: Annotated[Seconds | None, Meta(description="mean of the newer half")]
    reruns: Count
    flaky_workspaces: Count
    flaky: bool
    failing_since: FailingSince | None
    last: LastResult

    @classmethod
    def of(cls, item: test_results.TestHistory) -> TestHistory:
        """Return what the jobs' owner sees."""
        since, last = item.failing_since, item.last
        return cls(
            id=item.node_id,
            counts=dict(item.counts),
            pass_rate=item.pass_rate,
            duration=round(item.duration, 6),
            before=None if item.before is None else round(item.before, 6),
            now=None if item.now is None else round(item.now, 6),
            reruns=item.reruns,
            flaky_workspaces=item.flaky_workspaces,
            flaky=item.is_flaky,
            failing_since=None if since is None else FailingSince(job_id=since[0], at=format_time(since[1])),
            last=LastResult(**structs.asdict(TestResult.of(last)), job_id=last.job_id),
        )


class TestReport(Body):
    """A report on the tests of several jobs."""

    __test__ = False

    kind: str
    runs: Annotated[list[RecordedJob], Meta(description="the jobs that are looked at, oldest first")]
    tests: list[TestHistory]


# -- runs of pipelines


class RunSummary(Body):
    """A run in a list."""

    run_id: Uuid
    pipeline: str
    number: Annotated[FromOne, Meta(description="counts the runs of this pipeline and user")]
    status: Status
    success: bool | None
    reason: str | None
    submitted_at: Time
    start_time: Time | None
    end_time: Time | None
    workspace: Digest
    keep_going: bool
    rerun_of: Annotated[str | None, Meta(description="id of the run that this one repeats")]

    @staticmethod
    def of(item: run.Run) -> RunSummary:
        """Return what the run's owner sees in a list."""
        assert item.submitted_at is not None, "stored runs have it"
        return RunSummary(
            run_id=item.id,
            pipeline=item.pipeline,
            number=item.number,
            status=item.status,
            success=item.success,
            reason=item.reason,
            submitted_at=format_time(item.submitted_at),
            start_time=format_time(item.start_time),
            end_time=format_time(item.end_time),
            workspace=item.workspace,
            keep_going=item.plan.keep_going,
            rerun_of=item.rerun_of,
        )


class RunJob(Body):
    """A job of a run's plan, and the newest job made for it."""

    name: Annotated[str, Meta(description="unique in the run: with its cell where there is a matrix")]
    definition: str
    stage: str
    cell: dict[str, str]
    needs: list[str]
    kind: Literal["pytest", "script"]
    allow_failure: bool
    skipped: bool
    status: Status
    success: bool | None
    exit_code: int | None
    reason: str | None
    job_id: Annotated[str | None, Meta(description="of its newest job; null before the first")]
    retry: Annotated[Count, Meta(description="how many jobs of the run there were before that one")]
    reused: Annotated[bool, Meta(description="the job is one of the run that this one repeats")]
    phase: Phase | None
    start_time: Time | None
    end_time: Time | None
    counts: dict[str, int]
    secrets: Annotated[list[str], Meta(description="names only")]
    past_seconds: Annotated[float | None, Meta(description="what jobs of that name usually take")]

    @classmethod
    def of(cls, state: run.PlannedState) -> RunJob:
        """Return what the run's owner sees."""
        newest, facts, planned = state.job, state.facts, state.planned
        status: Status = newest.status if newest else "queued"
        return cls(
            name=planned.name,
            definition=planned.definition,
            stage=planned.stage,
            cell=dict(planned.cell),
            needs=list(planned.needs),
            kind="pytest" if planned.script is None else "script",
            allow_failure=planned.allow_failure,
            skipped=planned.skipped is not None,
            status="cancelled" if facts.dropped is not None else status,
            success=newest.success if newest else None,
            exit_code=newest.exit_code if newest else None,
            reason=planned.skipped or facts.dropped or (newest.reason if newest else None),
            job_id=newest.id if newest else None,
            retry=facts.retry,
            reused=state.reused,
            phase=newest.phase if newest else None,
            start_time=format_time(newest.start_time) if newest else None,
            end_time=format_time(newest.end_time) if newest else None,
            counts=dict(newest.counts) if newest else {},
            secrets=list(planned.secrets),
            past_seconds=state.past_seconds,
        )


class RunDetail(RunSummary):
    """A run with its stages and jobs."""

    stages: list[str]
    jobs: list[RunJob]

    @classmethod
    def with_jobs(cls, item: run.Run, states: Iterable[run.PlannedState]) -> RunDetail:
        """Return what the run's owner sees of it and its jobs."""
        return cls(
            **structs.asdict(RunSummary.of(item)),
            stages=list(item.plan.stages),
            jobs=[RunJob.of(state) for state in states],
        )


# -- events and submissions: described here, read and made elsewhere


class Artifacts(Struct, kw_only=True):
    """Artifacts of a job, with `complete`; absent when it is nothing."""

    files: FromOne
    bytes: Count
    root: Annotated[str, Meta(description="where the project lay for the run")]


class ChangeCounts(Struct, kw_only=True):
    """Numbers of files of the project that a job touched, with `complete`; absent when there are none."""

    created: Count
    changed: Count
    deleted: Count


class Event(Struct, kw_only=True):
    """Further types and fields may come at any time; ignore what you do not know."""

    type: str
    seq: Annotated[FromOne, Meta(description="number in its job, without gaps")] | UnsetType = UNSET
    timestamp: Time | UnsetType = UNSET
    data: Annotated[str, Meta(description="text of a `log`; may hold many lines")] | UnsetType = UNSET
    stream: LogStream | UnsetType = UNSET
    job_id: Uuid | UnsetType = UNSET
    success: bool | UnsetType = UNSET
    status: (
        Annotated[Status | list[Any], Meta(description="the job's; of a `report`: category, letter and word")]
        | UnsetType
    ) = UNSET
    exit_code: int | UnsetType | None = UNSET
    reason: str | UnsetType | None = UNSET
    cancelled: Annotated[bool, Meta(extra_json_schema={"const": True})] | UnsetType = UNSET
    job: Annotated[str, Meta(description="in a run's stream: the job's name in the plan")] | UnsetType = UNSET
    run_id: Uuid | UnsetType = UNSET
    artifacts: Artifacts | UnsetType = UNSET
    changes: ChangeCounts | UnsetType = UNSET
    timing: JobTiming | UnsetType = UNSET


class Manifest(Struct, kw_only=True):
    """The files of a workspace."""

    files: Annotated[
        list[tuple[str, int, Count, Digest]], Meta(description="[path, mode, size, sha256] of each file")
    ]
    protocol: Protocol | UnsetType = UNSET
    root: str | UnsetType = UNSET
    mtimes: dict[str, int] | UnsetType = UNSET
    links: (
        Annotated[dict[str, str], Meta(description="path of each symbolic link → its target in the project")]
        | UnsetType
    ) = UNSET
    folders: Annotated[list[str], Meta(description="empty folders")] | UnsetType = UNSET


_Port = Annotated[int, Meta(ge=1, le=65535)]


class SubmittedService(Struct, kw_only=True, forbid_unknown_fields=True):
    """A program that runs alongside the tests."""

    name: Annotated[HostName, Meta(description="host name")]
    image: str
    env: dict[str, str] | UnsetType = UNSET
    health: (
        Annotated[str | None, Meta(description="shell command that ends with 0 once it is ready")] | UnsetType
    ) = UNSET
    ports: Annotated[list[_Port], Meta(description="that must accept connections")] | UnsetType = UNSET
    command: Annotated[list[str], Meta(description="in place of the image's own")] | UnsetType = UNSET
    shm_size: Annotated[int | str | None, Meta(description="bytes of its /dev/shm")] | UnsetType = UNSET


_Zip = Annotated[
    str,
    Meta(
        description="the project; with a manifest: only the missing contents, named by digest",
        extra_json_schema={"contentMediaType": "application/zip"},
    ),
]


class Submission(Struct, kw_only=True):
    """The parts of a submission."""

    file: _Zip | UnsetType = UNSET
    options: SubmitOptions | UnsetType = UNSET
    manifest: Manifest | UnsetType = UNSET


class RunSubmission(Struct, kw_only=True):
    """The parts of a submission of a run."""

    file: _Zip | UnsetType = UNSET
    options: RunRequest | UnsetType = UNSET
    manifest: Manifest | UnsetType = UNSET


# -- the runner itself


class Health(Body):
    """The process answers."""

    status: Annotated[str, Meta(extra_json_schema={"const": "ok"})]


class Check(Struct, kw_only=True, frozen=True):
    """One thing that jobs need."""

    name: str
    ok: bool
    detail: str


class Readiness(Struct, kw_only=True, frozen=True):
    """Whether jobs can run."""

    status: Literal["ready", "not ready"]
    checks: list[Check]
    detail: str | UnsetType = UNSET
