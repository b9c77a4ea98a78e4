"""The five statuses of the reference system for a job, a stage and a run, and how the last two follow from the first.

Reports and `remote-ci pipeline` use these words; the store has statuses (`queued`, …) with `success` instead. The
next step of a run is decided in `scheduler`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pytest_remote_ci.wire.protocol import Status


class ExecutionStatus(str, Enum):
    """The status of a job, a stage or a pipeline in reports."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def description(self) -> str:
        """A short description for users."""
        return _DESCRIPTIONS[self]

    @property
    def is_over(self) -> bool:
        """Whether the status is final."""
        return self in (ExecutionStatus.SUCCESS, ExecutionStatus.FAILED, ExecutionStatus.CANCELED)


_DESCRIPTIONS: Final = {
    ExecutionStatus.PENDING: "scheduled, but has not started",
    ExecutionStatus.RUNNING: "under way",
    ExecutionStatus.SUCCESS: "ended, and all is well",
    ExecutionStatus.FAILED: "ended without success",
    ExecutionStatus.CANCELED: "cancelled, or dropped due to an earlier failure",
}


@dataclass(frozen=True)
class Part:
    """One job, as far as it affects the status of its stage or run."""

    status: ExecutionStatus
    #: A failure does not count.
    allow_failure: bool = False
    #: The job is left out of this run.
    skipped: bool = False


def of_job(status: Status, success: bool | None) -> ExecutionStatus:
    """Return the status for a job or run with this stored status."""
    if status == "queued":
        return ExecutionStatus.PENDING
    if status == "running":
        return ExecutionStatus.RUNNING
    if status == "cancelled":
        return ExecutionStatus.CANCELED
    return ExecutionStatus.SUCCESS if status == "completed" and success else ExecutionStatus.FAILED


def overall(parts: Iterable[Part]) -> ExecutionStatus:
    """Return the status of a stage or a run with these jobs.

    The first of FAILED, CANCELED, RUNNING, PENDING, SUCCESS that occurs. An allowed failure counts as success; a job
    that is left out does not count. If some jobs are done and the rest wait, it is RUNNING. Without jobs it is
    PENDING; if all jobs are left out, it is SUCCESS.
    """
    parts = list(parts)
    words = {
        ExecutionStatus.SUCCESS
        if part.skipped or (part.allow_failure and part.status is ExecutionStatus.FAILED)
        else part.status
        for part in parts
    }
    if not words:
        return ExecutionStatus.PENDING
    for word in (ExecutionStatus.FAILED, ExecutionStatus.CANCELED, ExecutionStatus.RUNNING):
        if word in words:
            return word
    begun = any(part.status is not ExecutionStatus.PENDING and not part.skipped for part in parts)
    if ExecutionStatus.PENDING in words:
        return ExecutionStatus.RUNNING if begun else ExecutionStatus.PENDING
    return ExecutionStatus.SUCCESS
