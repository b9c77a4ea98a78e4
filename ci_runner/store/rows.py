"""Rows of queries, as typed dictionaries: the columns that a query selects, with the types of their Python values.

Peewee's results have no types: `Database.rows` gives them one of these and compares the names. A test compares the
types with the columns of `schema`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import TypedDict

from ci_runner.model.job_options import JobOptions
from ci_runner.pipelines.scheduler import StopIntent
from pytest_remote_ci.wire.changes import ChangeKind
from pytest_remote_ci.wire.protocol import Phase, Priority, Status


class Id(TypedDict):
    """The id of a user, job or run."""

    id: str


class JobId(TypedDict):
    """The id of a row's job."""

    job_id: str


class NodeId(TypedDict):
    """The id of a test."""

    node_id: str


class OpenCount(TypedDict):
    """How many open jobs are in a phase, and when the first of them was submitted."""

    phase: Phase
    building: bool
    number: int
    submitted_at: dt.datetime


class EndedJob(TypedDict):
    """What became of a job."""

    id: str
    status: Status
    success: bool | None
    submitted_at: dt.datetime
    start_time: dt.datetime | None
    end_time: dt.datetime | None


class StoredTiming(TypedDict):
    """The last event of a job."""

    job_id: str
    body: str


class Digest(TypedDict):
    """The digest of a granted content."""

    digest: str


class ArtifactDigest(TypedDict):
    """The digest of an artifact's content."""

    sha256: str


class Submitted(TypedDict):
    """When a job or run was submitted."""

    submitted_at: dt.datetime


class FirstSubmission(Id):
    """The job or run that a repeated submission refers to."""

    body_digest: str | None


class Newest(Id):
    """The number of the newest event of a job or a run."""

    last_seq: int


class LastSeq(TypedDict):
    """The number of the newest entry of a run's feed."""

    last_seq: int


class OpenJob(TypedDict):
    """What has to be known of a job to append events that end it."""

    last_seq: int
    run_id: str | None


class OwnedJob(OpenJob):
    """What has to be known of a job to change its phase."""

    user_id: str | None


class JobEnd(OpenJob):
    """What has to be known of a job to append events."""

    end_time: dt.datetime | None


class JobTurn(Id):
    """A job in the queue's order."""

    user_id: str | None
    status: Status
    phase: Phase
    priority: Priority
    submitted_at: dt.datetime
    building: bool
    cancel_requested_at: dt.datetime | None


class StoredJob(JobTurn):
    """A job: the fields of `ci_runner.model.job.Job`."""

    success: bool | None
    start_time: dt.datetime | None
    end_time: dt.datetime | None
    container_id: str | None
    zip_file_path: str | None
    exit_code: int | None
    reason: str | None
    name: str | None
    options: JobOptions
    workspace: str | None
    attempt: int
    environment: str | None
    cancelled_by: str | None
    phase_since: dt.datetime | None
    stop_intent: str | None
    stop_requested_at: dt.datetime | None
    cleaned_at: dt.datetime | None
    last_seq: int
    log_bytes: int
    counts: Mapping[str, int]
    run_id: str | None
    stage: str | None
    planned: str | None
    retry: int


class PhaseChanges(TypedDict, total=False):
    """The fields that may change with a job's phase."""

    status: Status
    phase_since: dt.datetime | None
    start_time: dt.datetime | None
    container_id: str | None
    zip_file_path: str | None
    reason: str | None
    workspace: str | None
    attempt: int
    building: bool
    environment: str | None
    stop_intent: str | None
    stop_requested_at: dt.datetime | None
    counts: Mapping[str, int]


class JobChanges(PhaseChanges, total=False):
    """The fields that `Jobs.advance` may change; other fields have other writers."""

    phase: Phase


class RunState(Id):
    """A run without its plan: other fields of `ci_runner.pipelines.run.Run`."""

    user_id: str
    workspace: str
    number: int
    options: Mapping[str, object]
    status: Status
    success: bool | None
    reason: str | None
    submitted_at: dt.datetime
    start_time: dt.datetime | None
    end_time: dt.datetime | None
    cancel_requested_at: dt.datetime | None
    cancelled_by: str | None
    stop_intent: StopIntent | None
    rerun_of: str | None
    version: int
    last_seq: int


class StoredRun(RunState):
    """A run."""

    #: JSON of its plan.
    plan: str


class StoredUser(Id):
    """A user: the fields of `ci_runner.model.job.User`."""

    name: str
    email: str
    created_at: dt.datetime
    is_active: bool
    priority_cap: Priority


class UserDeletion(TypedDict):
    """When a user was deleted."""

    deleted_at: dt.datetime | None


class StoredKey(Id):
    """An API key: the fields of `ci_runner.model.job.APIKey`."""

    user_id: str
    key_hash: str
    name: str | None
    created_at: dt.datetime
    last_used_at: dt.datetime | None
    is_active: bool
    expires_at: dt.datetime | None


class StoredArtifact(TypedDict):
    """An artifact: the fields of `ci_runner.model.job.Artifact`."""

    path: str
    mode: int
    size: int
    sha256: str
    kept_until: dt.datetime
    requested: bool
    change: ChangeKind | None
    before: str | None


class StoredTest(TypedDict):
    """The result of a test in a job."""

    job_id: str
    node_id: str
    outcome: int
    duration: int
    reruns: int
    at: dt.datetime


class OutcomeCount(TypedDict):
    """How many tests have an outcome."""

    outcome: int
    n: int


class JobOutcome(OutcomeCount):
    """How many tests of a job have an outcome, and their microseconds."""

    job_id: str
    s: int


class JobWithTests(Id):
    """A job in a report on tests."""

    workspace: str | None
    submitted_at: dt.datetime
    options: JobOptions


class StoredSpool(TypedDict):
    """How far an attempt's spool files have been read (bytes)."""

    job_id: str
    attempt: int
    frames: int
    stdout: int
    stderr: int
    records: int
    terminal: int


class FeedEntry(TypedDict):
    """Events in a run's feed, and the name of their job in the plan."""

    run_id: str
    seq: int
    number: int
    job_id: str | None
    first: int
    at: dt.datetime
    body: str | None
    planned: str | None


class Secret(TypedDict):
    """A secret's encrypted value."""

    name: str
    value: str


class StoredLease(TypedDict):
    """The lease."""

    id: int
    epoch: int
    holder: str | None
    acquired_at: dt.datetime | None
    heartbeat_at: dt.datetime | None
    engine_silent_since: dt.datetime | None
