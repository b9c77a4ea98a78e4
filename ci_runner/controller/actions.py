"""What the controller may do, as frozen values: decided by `reconcile`, done by `perform`.

Each may be performed twice: a crash between the deed and its record only repeats it. No second action is
started for a `subject` while one is going on; after a failure that passes, the same `key` is left alone for a
while.
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
        """What it is about: nothing else is done to that meanwhile."""
        raise NotImplementedError

    @property
    def key(self) -> str:
        """The action without its details, for counting failures."""
        return f"{type(self).__name__} {self.subject}"


@dataclass(frozen=True)
class JobAction(Action):
    """A change that concerns one job."""

    job_id: str

    @property
    def subject(self) -> str:
        """The job."""
        return self.job_id


@dataclass(frozen=True)
class Claim(JobAction):
    """Take a waiting job up."""


@dataclass(frozen=True)
class Prepare(JobAction):
    """Make the job's workspace and environment ready; may take minutes."""


@dataclass(frozen=True)
class Launch(JobAction):
    """Create the attempt's container, or adopt the one that is there, and start it."""

    attempt: int
    #: A container that was created, but not started.
    container_id: str | None = None


@dataclass(frozen=True)
class Record(JobAction):
    """Write down which container the attempt has: it is there, but the row does not know it."""

    attempt: int
    container_id: str


@dataclass(frozen=True)
class Finishing(JobAction):
    """The container is over; the last of its output is being read."""


@dataclass(frozen=True)
class Stop(JobAction):
    """Record why the job is being stopped, then ask: TERM for a container, else end the preparing."""

    #: "cancel", "timeout", "disk" or "full".
    intent: str
    container_id: str | None

    @property
    def subject(self) -> str:
        """Its own: it interrupts a `Prepare` that is going on."""
        return stop_subject(self.job_id)


@dataclass(frozen=True)
class Kill(JobAction):
    """End the whole process tree; `intent` is recorded first where none is yet."""

    container_id: str
    intent: str


@dataclass(frozen=True)
class Retry(JobAction):
    """Give the job a next attempt: the last one was lost before the user's command ran."""

    #: The lost attempt.
    attempt: int
    #: One line for the user.
    reason: str


@dataclass(frozen=True)
class Finish(JobAction):
    """Write the job's one terminal status."""

    verdict: Verdict
    #: Container whose own log says why the worker never started, if that is what happened.
    post_mortem: str | None = None
    #: The command ran and files of the job are asked for: first they are collected.
    collect: bool = False
    #: Its container, if that may still be going; it must be gone before any file is read.
    going: str | None = None


@dataclass(frozen=True)
class Clean(JobAction):
    """Remove containers, spools and workspace of a job that is over; its events stay."""

    container_ids: tuple[str, ...]


@dataclass(frozen=True)
class RemoveContainer(Action):
    """Remove a container that belongs to nothing any more (by its labels)."""

    container_id: str
    name: str

    @property
    def subject(self) -> str:
        """The container."""
        return self.container_id


@dataclass(frozen=True)
class Announce(Action):
    """Tell waiting jobs their places."""

    #: Job id and place, 1 for the next to start.
    places: tuple[tuple[str, int], ...]

    @property
    def subject(self) -> str:
        """The queue."""
        return "queue"


@dataclass(frozen=True)
class AdvanceRun(Action):
    """Bring a run of a pipeline forward: start, drop and end jobs of it, or end it. One transaction."""

    run: Run
    #: What had become of its jobs when this was decided.
    facts: Mapping[str, Facts]
    step: Step
    stop_intent: StopIntent | None = None

    @property
    def subject(self) -> str:
        """The run."""
        return self.run.id


def stop_subject(job_id: str) -> str:
    """The subject of a `Stop` of that job."""
    return f"stop {job_id}"
