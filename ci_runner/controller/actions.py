"""Actions of the controller, as frozen values: `decide` chooses them, `executor` performs them.

An action may be performed twice: a crash before its effect is recorded repeats it. While an action for a `subject` is
in progress, no second one is started. After a temporary failure, the same `key` is paused for a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ci_runner.model.verdict import Verdict
from ci_runner.pipelines.run import Run
from ci_runner.pipelines.scheduler import Facts, Step, StopIntent


@dataclass(frozen=True)
class Action:
    """One decided change."""

    @property
    def subject(self) -> str:
        """Return the subject: while this action goes on, nothing else is done to it."""
        raise NotImplementedError  # each kind of action defines it

    @property
    def key(self) -> str:
        """Return the action without its details, for counting failures."""
        return f"{type(self).__name__} {self.subject}"


@dataclass(frozen=True)
class JobAction(Action):
    """A change that concerns one job."""

    job_id: str

    @property
    def subject(self) -> str:
        """Return the job."""
        return self.job_id


@dataclass(frozen=True)
class Claim(JobAction):
    """Take up a waiting job."""


@dataclass(frozen=True)
class Prepare(JobAction):
    """Prepare the job's workspace and environment; may take minutes."""


@dataclass(frozen=True)
class Launch(JobAction):
    """Create the attempt's container, or adopt an existing one, and start it."""

    attempt: int
    #: A container that was created but not started.
    container_id: str | None = None


@dataclass(frozen=True)
class Record(JobAction):
    """Record the attempt's container: it exists, but its id is not in the job's row."""

    attempt: int
    container_id: str


@dataclass(frozen=True)
class Finishing(JobAction):
    """Record that the container has ended; the rest of its output is being read."""


@dataclass(frozen=True)
class Stop(JobAction):
    """Record why the job is to stop, then request it: send TERM to a container, or interrupt the preparation."""

    #: "cancel", "timeout", "disk" or "full".
    intent: str
    container_id: str | None

    @property
    def subject(self) -> str:
        """Return the action's own subject: it may interrupt a `Prepare` in progress."""
        return stop_subject(self.job_id)


@dataclass(frozen=True)
class Kill(JobAction):
    """End the whole process tree; record `intent` first unless one is recorded."""

    container_id: str
    intent: str


@dataclass(frozen=True)
class Retry(JobAction):
    """Give the job another attempt: the last one was lost before the user's command ran."""

    #: The lost attempt.
    attempt: int
    #: One line for the user.
    reason: str


@dataclass(frozen=True)
class Finish(JobAction):
    """Write the job's one terminal status."""

    verdict: Verdict
    #: The container with the log that explains why the worker never started, if that happened.
    post_mortem: str | None = None
    #: Collect the job's files first: the command ran, and the submission asks for files.
    collect: bool = False
    #: The job's container, if it may still run; it must be removed before any file is read.
    going: str | None = None


@dataclass(frozen=True)
class Clean(JobAction):
    """Remove a finished job's containers, spools and workspace; its events stay."""

    container_ids: tuple[str, ...]


@dataclass(frozen=True)
class RemoveContainer(Action):
    """Remove a container that, by its labels, no longer belongs to anything."""

    container_id: str
    name: str

    @property
    def subject(self) -> str:
        """Return the container."""
        return self.container_id


@dataclass(frozen=True)
class AdvanceRun(Action):
    """Advance a run: start, drop and end its jobs, or end the run. One transaction."""

    run: Run
    #: The state of its jobs when this was decided.
    facts: Mapping[str, Facts]
    step: Step
    stop_intent: StopIntent | None = None

    @property
    def subject(self) -> str:
        """Return the run."""
        return self.run.id


def stop_subject(job_id: str) -> str:
    """Return the subject of that job's `Stop`."""
    return f"stop {job_id}"
