"""`Job`, `JobEvent`, `User` and `APIKey`, as frozen values.

The first fields of each, with their names, come from the interface that this project was given. Times are UTC; a naive
one is taken as UTC, with a `NaiveTimeWarning`, wherever it is stored or written as text. `to_dict` and `from_dict` lose
nothing that they cover; `to_summary_dict` is what a client may see.
"""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, TypeVar, get_type_hints, overload

from msgspec import UNSET, Meta, Struct, UnsetType, convert, to_builtins

from ci_runner.model.field_types import FromOne, Seconds, Time, Uuid
from ci_runner.model.job_options import JobOptions
from pytest_remote_ci.wire.changes import ChangeKind
from pytest_remote_ci.wire.protocol import Phase, Priority, Status

_T = TypeVar("_T")


def utcnow() -> dt.datetime:
    """Return the current time, aware, in UTC."""
    return dt.datetime.now(dt.timezone.utc)


class NaiveTimeWarning(UserWarning):
    """A time without a time zone, such as `datetime.utcnow()`, was taken as UTC.

    A `UserWarning`, so it is shown by default; this separate class can be turned into an error.
    """


def as_utc(moment: dt.datetime) -> dt.datetime:
    """Return the moment in UTC; a naive one is taken as UTC, with a `NaiveTimeWarning`."""
    if moment.tzinfo is None:
        text = f"{moment} has no time zone and is taken as UTC; use datetime.now(timezone.utc)"
        warnings.warn(text, NaiveTimeWarning, stacklevel=3)
        return moment.replace(tzinfo=dt.timezone.utc)
    return moment.astimezone(dt.timezone.utc)


@overload
def format_time(moment: dt.datetime) -> str: ...


@overload
def format_time(moment: dt.datetime | None) -> str | None: ...


def format_time(moment: dt.datetime | None) -> str | None:
    """Return RFC 3339 in UTC with microseconds and a final ``Z``; None stays None."""
    return None if moment is None else as_utc(moment).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str | None) -> dt.datetime | None:
    """Parse the result of `format_time`; accepts any RFC 3339 offset. Raises ValueError."""
    if text is None:
        return None
    moment = dt.datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    try:
        return moment.astimezone(dt.timezone.utc)
    except OverflowError as error:  # in UTC before the year 1, or after 9999
        raise ValueError(f"{text!r} is out of range") from error


class ParsedFields(dict[str, object]):
    """Fields parsed from JSON, with their text, so that they need not be dumped again. Not to be changed."""

    #: One line of JSON in ASCII equal to these fields; "" if it has to be made.
    text: str = ""


@dataclass(frozen=True)
class JobEvent:
    """A numbered fact about a job, as stored and as sent."""

    #: `log`, `complete`, `state`, …: a type from docs/reference/wire.md.
    type: str
    #: Text of a log event.
    data: str | None = None
    success: bool | None = None
    timestamp: dt.datetime | None = None
    #: Number in its job from 1, without gaps; 0 before it is stored.
    seq: int = 0
    #: The type's other fields (`stream`, `status`, `reason`, …).
    fields: Mapping[str, object] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return the JSON that clients see: `type`, `timestamp`, then the fields that are set."""
        result: dict[str, object] = {"type": self.type, **self.fields}
        if self.data is not None:
            result["data"] = self.data
        if self.success is not None:
            result["success"] = self.success
        if self.timestamp is not None:
            result["timestamp"] = format_time(self.timestamp)
        return result

    @classmethod
    def from_dict(
        cls, data: Mapping[str, object], timestamp: dt.datetime | None = None, *, seq: int = 0
    ) -> JobEvent:
        """Return an event from the result of `to_dict`. A `timestamp` replaces the one in `data`."""
        own = ("type", "data", "success", "timestamp")
        values = {key: data[key] for key in own if key in data}
        rest = {key: value for key, value in data.items() if key not in own}
        moment = _moment(data.get("timestamp")) if timestamp is None else timestamp
        return convert({**values, "timestamp": moment, "seq": seq, "fields": rest}, cls)


@dataclass(frozen=True)
class Artifact:
    """A file that a job made, changed or deleted; its content is a blob."""

    #: Relative to the project, like a workspace's paths.
    path: str
    #: 0o644 or 0o755.
    mode: int
    #: Bytes.
    size: int
    sha256: str
    #: When it is deleted.
    kept_until: dt.datetime | None = None
    #: Whether the submission asked for it; else it is only a change of the project.
    requested: bool = True
    #: What the job did to this file of the project; None: it is none of the project's.
    change: ChangeKind | None = None
    #: Digest of the submitted content, for a changed or deleted file.
    before: str | None = None

    @property
    def is_stored(self) -> bool:
        """Whether its content is a blob; deleted files, and changes beyond the limits, have no digest."""
        return bool(self.sha256)


class JobTiming(Struct, kw_only=True, frozen=True):
    """How long the phases of a job took."""

    phases: Annotated[dict[str, Seconds], Meta(description="phase → seconds; those that were measured")]
    cold: Annotated[list[str], Meta(description="what was not there yet, and why")] | UnsetType = UNSET
    container: (
        Annotated[str, Meta(description="how the container was started, if the runner starts some ahead")]
        | UnsetType
    ) = UNSET


class JobSummary(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a job's owner sees: never user ids, container ids or paths of the host."""

    job_id: Uuid
    status: Status
    success: Annotated[bool | None, Meta(description="null where there is no verdict")]
    start_time: Time | None
    end_time: Time | None
    exit_code: Annotated[int | None, Meta(description="the command's own")]
    reason: Annotated[str | None, Meta(description="why there is no verdict")]
    phase: Phase
    submitted_at: Time | None
    queue_position: FromOne | None
    name: str | None
    counts: dict[str, int]
    detail: Annotated[str, Meta(description="why a waiting job does not start")] | UnsetType = UNSET
    project: Annotated[str, Meta(description="name of the project's folder, if it was sent")] | UnsetType = (
        UNSET
    )
    run_id: Annotated[Uuid, Meta(description="only in a run of a pipeline")] | UnsetType = UNSET
    stage: str | UnsetType = UNSET
    planned: Annotated[str, Meta(description="its name in the run's plan")] | UnsetType = UNSET
    retry: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    timing: Annotated[JobTiming, Meta(description="of one job that is over, not in lists")] | UnsetType = (
        UNSET
    )


@dataclass(frozen=True)
class Job:
    """A unit of work that runs in one container."""

    #: UUID4, text.
    id: str
    status: Status = "queued"
    #: Only filled on request.
    events: tuple[JobEvent, ...] = ()
    #: True or False; None without a verdict.
    success: bool | None = None
    #: When the controller took the job up.
    start_time: dt.datetime | None = None
    end_time: dt.datetime | None = None
    container_id: str | None = None
    #: Path of an uploaded archive that is not unpacked yet. Part of the given interface; this runner unpacks at
    #: submission.
    zip_file_path: str | None = None
    user_id: str | None = None
    # -- the runner's own fields
    phase: Phase = "queued"
    #: The command's own exit code.
    exit_code: int | None = None
    #: Why there is no verdict, in words for the user; one line.
    reason: str | None = None
    name: str | None = None
    priority: Priority = "normal"
    submitted_at: dt.datetime | None = None
    options: JobOptions = field(default_factory=JobOptions)
    #: Digest of the workspace's manifest (itself a blob).
    workspace: str | None = None
    #: The attempt's number, from 1; 0 before the first.
    attempt: int = 0
    #: An environment is being built for it, so it holds no run slot.
    building: bool = False
    #: Key of its prepared environment (`ci_runner.controller.environments.environments`), once there is one.
    environment: str | None = None
    cancel_requested_at: dt.datetime | None = None
    cancelled_by: str | None = None
    #: When the current phase began.
    phase_since: dt.datetime | None = None
    #: Why the container is being stopped, recorded before the first signal: "cancel", "timeout", "disk" (the job's
    #: limit), "full" (the runner's disk).
    stop_intent: str | None = None
    stop_requested_at: dt.datetime | None = None
    #: When its container, spool and workspace were removed.
    cleaned_at: dt.datetime | None = None
    #: Number of the newest event.
    last_seq: int = 0
    #: Bytes of log text stored so far.
    log_bytes: int = 0
    #: Test outcomes so far: outcome → number (empty until a record arrives).
    counts: Mapping[str, int] = field(default_factory=dict)
    #: Its run, stage, name in the run's plan, and the number of earlier jobs of that name in the run.
    run_id: str | None = None
    stage: str | None = None
    planned: str | None = None
    retry: int = 0
    #: 1 for the next to start; None once taken up.
    queue_position: int | None = None

    @property
    def is_over(self) -> bool:
        """Return whether the status is terminal."""
        return self.status in ("completed", "failed", "cancelled")

    def summary(self) -> JobSummary:
        """Return what its owner sees."""
        of_run = self.run_id is not None
        return JobSummary(
            job_id=self.id,
            status=self.status,
            success=self.success,
            start_time=format_time(self.start_time),
            end_time=format_time(self.end_time),
            exit_code=self.exit_code,
            reason=self.reason,
            phase=self.phase,
            submitted_at=format_time(self.submitted_at),
            queue_position=self.queue_position,
            name=self.name,
            counts=dict(self.counts),
            project=PurePosixPath(self.options.submitted.root or "").name or UNSET,
            run_id=UNSET if self.run_id is None else self.run_id,
            stage=self.stage if of_run and self.stage is not None else UNSET,
            planned=self.planned if of_run and self.planned is not None else UNSET,
            retry=self.retry if of_run else UNSET,
        )

    def to_summary_dict(self) -> dict[str, object]:
        """Return `summary` as a JSON-ready dictionary."""
        return dict(to_builtins(self.summary()))

    def to_dict(self) -> dict[str, object]:
        """Return all fields, JSON-ready (for backups and tests; not for clients)."""
        result: dict[str, object] = {}
        for key in self.__dataclass_fields__:
            value = getattr(self, key)
            if isinstance(value, dt.datetime):
                value = format_time(value)
            elif key == "events":
                value = [event.to_dict() | {"seq": event.seq} for event in self.events]
            elif isinstance(value, JobOptions):
                value = dict(value.stored)
            elif isinstance(value, Mapping):
                value = dict(value)
            result[key] = value
        return result

    @classmethod
    def from_dict(cls, raw: Mapping[str, object]) -> Job:
        """Return a job from the result of `to_dict`; unknown keys raise TypeError."""
        values = dict(raw)
        events = []
        for item in convert(values.get("events", ()), list[dict[str, object]]):
            seq = convert(item.pop("seq", 0), int)
            events.append(JobEvent.from_dict(item, seq=seq))
        values["events"] = tuple(events)
        values["options"] = JobOptions.from_dict(values.get("options") or {})
        return _restored(values, cls, _JOB_TIMES)


_JOB_TIMES = {
    "start_time",
    "end_time",
    "submitted_at",
    "cancel_requested_at",
    "phase_since",
    "stop_requested_at",
    "cleaned_at",
}


@dataclass(frozen=True)
class User:
    """A user who may submit jobs."""

    #: UUID4, text.
    id: str
    name: str
    #: Unique, ignoring case.
    email: str
    created_at: dt.datetime
    is_active: bool = True
    #: The highest priority that the user's jobs may request.
    priority_cap: Priority = "normal"

    def to_dict(self) -> dict[str, object]:
        """Return all fields, JSON-ready."""
        return {
            "id": self.id,
            "name": self.name,
            "email": self.email,
            "created_at": format_time(self.created_at),
            "is_active": self.is_active,
            "priority_cap": self.priority_cap,
        }

    to_summary_dict = to_dict

    @classmethod
    def from_dict(cls, raw: Mapping[str, object]) -> User:
        """Return a user from the result of `to_dict`."""
        return _restored(raw, cls, {"created_at"})


@dataclass(frozen=True)
class APIKey:
    """A user's key. The key itself is never stored, only its SHA-256."""

    #: The 8 characters after ``ci_``; the key's name for people.
    id: str
    user_id: str
    #: Hexadecimal SHA-256 of the whole key.
    key_hash: str
    name: str | None = None
    created_at: dt.datetime = field(default_factory=utcnow)
    last_used_at: dt.datetime | None = None
    is_active: bool = True
    expires_at: dt.datetime | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the fields without any key material, JSON-ready."""
        return {
            "id": self.id,
            "user_id": self.user_id,
            "name": self.name,
            "created_at": format_time(self.created_at),
            "last_used_at": format_time(self.last_used_at),
            "is_active": self.is_active,
            "expires_at": format_time(self.expires_at),
        }

    to_summary_dict = to_dict

    @classmethod
    def from_dict(cls, raw: Mapping[str, object]) -> APIKey:
        """Return a key from the result of `to_dict`; add `key_hash` if it is needed."""
        return _restored({"key_hash": "", **raw}, cls, {"created_at", "last_used_at", "expires_at"})


def _restored(raw: Mapping[str, object], kind: type[_T], times: set[str]) -> _T:
    """Return a dataclass from its fields, those in `times` as text; unknown ones raise TypeError."""
    unknown = sorted(raw.keys() - get_type_hints(kind).keys())
    if unknown:
        raise TypeError(f"{kind.__name__} has no field {unknown[0]}")
    return convert({name: _moment(value) if name in times else value for name, value in raw.items()}, kind)


def _moment(value: object) -> dt.datetime | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{value!r} is not a time")
    return parse_time(value)
