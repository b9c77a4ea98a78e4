"""The five words of the reference system for a job, a stage and a run, and how the last two follow from the first.

Ours are the seed's statuses (`queued`, …) with `success`; reports and `remote-ci pipeline` speak these words. What is
to be done next says `progress`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pytest_remote_ci.wire.protocol import Status


class ExecutionStatus(str, Enum):
    """What an execution of a job, a stage or a pipeline has come to."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def description(self) -> str:
        """In a few words, for people."""
        return _DESCRIPTIONS[self]

    @property
    def is_over(self) -> bool:
        """Whether nothing can change any more."""
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
    """One job, as far as the status of what it belongs to depends on it."""

    status: ExecutionStatus
    #: Its failure counts for nothing.
    allow_failure: bool = False
    #: It is left out of this run.
    skipped: bool = False


def of_job(status: Status, success: bool | None) -> ExecutionStatus:
    """The word for a job's, or a run's, own status."""
    if status == "queued":
        return ExecutionStatus.PENDING
    if status == "running":
        return ExecutionStatus.RUNNING
    if status == "cancelled":
        return ExecutionStatus.CANCELED
    return ExecutionStatus.SUCCESS if status == "completed" and success else ExecutionStatus.FAILED


def overall(parts: Iterable[Part]) -> ExecutionStatus:
    """The word for a stage or a run with these jobs.

    FAILED before CANCELED before RUNNING before PENDING before SUCCESS; a failure that is allowed counts as success,
    a job that is left out counts for nothing. Where something is done and the rest waits it is under way. Nothing at
    all is PENDING; only jobs that are left out are a success.
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
