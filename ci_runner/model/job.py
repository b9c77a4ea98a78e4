"""The nouns of the core: `Job`, `JobEvent`, `User`, `APIKey`, as frozen values.

The first fields of each are the seed's, under the seed's names; the rest is ours. Times are aware UTC datetimes.
`to_dict` and `from_dict` are lossless for what they carry; `to_summary_dict` is what a client may see.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ci_runner.model.job_options import JobOptions
from pytest_remote_ci.wire.protocol import Phase, Priority, Status


def utcnow() -> dt.datetime:
    """The time now, aware, in UTC."""
    return dt.datetime.now(dt.timezone.utc)


def format_time(moment: dt.datetime | None) -> str | None:
    """RFC 3339 in UTC with microseconds and a final ``Z``; None stays None. A naive time is refused."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError("naive datetime")
    return moment.astimezone(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str | None) -> dt.datetime | None:
    """The inverse of `format_time`; accepts any RFC 3339 offset. Raises ValueError."""
    if text is None:
        return None
    moment = dt.datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    try:
        return moment.astimezone(dt.timezone.utc)
    except OverflowError as error:  # in UTC it is before the year 1, or after 9999
        raise ValueError(f"{text!r} is out of range") from error


class Told(dict[str, Any]):
    """Fields that came as JSON: stored as they came, they need not be made text again. Not to be changed."""

    #: One line of JSON in ASCII that is the same as these; "" where it has to be made.
    text: str = ""


@dataclass(frozen=True)
class JobEvent:
    """A numbered fact about a job, as stored and as sent."""

    #: `log`, `complete`, `state`, …: the types of docs/reference/wire.md.
    type: str
    #: Text of a log event.
    data: str | None = None
    success: bool | None = None
    timestamp: dt.datetime | None = None
    #: Number in its job from 1, without gaps; 0 before it is stored.
    seq: int = 0
    #: The type's other fields (`stream`, `status`, `reason`, …).
    fields: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The JSON that clients see: `type`, `timestamp`, then what is set."""
        result: dict[str, Any] = {"type": self.type, **self.fields}
        if self.data is not None:
            result["data"] = self.data
        if self.success is not None:
            result["success"] = self.success
        if self.timestamp is not None:
            result["timestamp"] = format_time(self.timestamp)
        return result

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], seq: int = 0) -> JobEvent:
        """The inverse of `to_dict`."""
        rest = {
            key: value for key, value in raw.items() if key not in ("type", "data", "success", "timestamp")
        }
        return cls(
            raw["type"], raw.get("data"), raw.get("success"), parse_time(raw.get("timestamp")), seq, rest
        )


@dataclass(frozen=True)
class Artifact:
    """A file that a job left behind; its content is a blob."""

    #: Relative to the project, as a workspace's paths are.
    path: str
    #: 0o644 or 0o755.
    mode: int
    #: Bytes.
    size: int
    sha256: str
    #: When it is forgotten.
    kept_until: dt.datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """What its owner sees."""
        return {
            "path": self.path,
            "size": self.size,
            "sha256": self.sha256,
            "executable": bool(self.mode & 0o100),
            "kept_until": format_time(self.kept_until),
        }


@dataclass(frozen=True)
class Job:
    """One container's worth of work."""

    #: UUID4, text.
    id: str
    status: Status = "queued"
    #: Only filled where a reader asked for them.
    events: tuple[JobEvent, ...] = ()
    #: True, False, or None while, and where, there is no verdict.
    success: bool | None = None
    #: When the controller took the job up.
    start_time: dt.datetime | None = None
    end_time: dt.datetime | None = None
    container_id: str | None = None
    #: Path of an uploaded archive that is not unpacked yet (seed contract; ours unpacks at submission).
    zip_file_path: str | None = None
    user_id: str | None = None
    # -- ours
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
    #: The container's number, from 1; 0 before the first.
    attempt: int = 0
    #: An environment is being built for it now: it holds no run slot meanwhile.
    building: bool = False
    #: Key of its prepared environment (`ci_runner.controller.environments.environments`), once there is one.
    environment: str | None = None
    cancel_requested_at: dt.datetime | None = None
    cancelled_by: str | None = None
    #: When the present phase began.
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
    #: Test outcomes so far: outcome → number (empty while nothing structured arrived).
    counts: Mapping[str, int] = field(default_factory=dict)
    #: The run of a pipeline that it belongs to, its stage, its name in the run's plan, and how many jobs of that name
    #: the run had before it.
    run_id: str | None = None
    stage: str | None = None
    planned: str | None = None
    retry: int = 0
    #: 1 for the next to start; None once taken up.
    queue_position: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether the status is terminal."""
        return self.status in ("completed", "failed", "cancelled")

    def to_summary_dict(self) -> dict[str, Any]:
        """What its owner sees: never user ids, container ids or paths of the host."""
        return {
            "job_id": self.id,
            "status": self.status,
            "success": self.success,
            "start_time": format_time(self.start_time),
            "end_time": format_time(self.end_time),
            "exit_code": self.exit_code,
            "reason": self.reason,
            "phase": self.phase,
            "submitted_at": format_time(self.submitted_at),
            "queue_position": self.queue_position,
            "name": self.name,
            "counts": dict(self.counts),
            **(
                {"run_id": self.run_id, "stage": self.stage, "planned": self.planned, "retry": self.retry}
                if self.run_id is not None
                else {}
            ),
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-ready (for backups and tests; not for clients)."""
        result: dict[str, Any] = {}
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
    def from_dict(cls, raw: Mapping[str, Any]) -> Job:
        """The inverse of `to_dict`; unknown keys raise TypeError."""
        values = dict(raw)
        for key in _JOB_TIMES & values.keys():
            values[key] = parse_time(values[key])
        events = []
        for item in values.get("events", ()):
            plain = dict(item)
            seq = plain.pop("seq", 0)
            events.append(JobEvent.from_dict(plain, seq))
        values["events"] = tuple(events)
        values["options"] = JobOptions.from_dict(values.get("options") or {})
        return cls(**values)


_JOB_TIMES = {
    "start_time", "end_time", "submitted_at", "cancel_requested_at", "phase_since", "stop_requested_at", "cleaned_at",
}  # fmt: skip


@dataclass(frozen=True)
class User:
    """Somebody who may submit jobs."""

    #: UUID4, text.
    id: str
    name: str
    #: Unique without regard to case.
    email: str
    created_at: dt.datetime
    is_active: bool = True
    #: The most that the user's jobs may ask for.
    priority_cap: Priority = "normal"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
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
    def from_dict(cls, raw: Mapping[str, Any]) -> User:
        """The inverse of `to_dict`."""
        return cls(**{**raw, "created_at": parse_time(raw["created_at"])})


@dataclass(frozen=True)
class APIKey:
    """A key of a user. The key itself is never stored, only its SHA-256."""

    #: The 8 characters after ``ci_``; what people name a key by.
    id: str
    user_id: str
    #: Hexadecimal SHA-256 of the whole key.
    key_hash: str
    name: str | None
    created_at: dt.datetime
    last_used_at: dt.datetime | None = None
    is_active: bool = True
    expires_at: dt.datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without any key material."""
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
    def from_dict(cls, raw: Mapping[str, Any]) -> APIKey:
        """The inverse of `to_dict`; `key_hash` must be given beside it where it matters."""
        values = {"key_hash": "", **raw}
        for key in ("created_at", "last_used_at", "expires_at"):
            values[key] = parse_time(values.get(key))
        return cls(**values)
