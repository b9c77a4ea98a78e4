"""Decide the next step of a run: a pure function of its plan and the states of its jobs.

It is level-triggered like `controller.decide`: the same rows always give the same answer. The decision is written in
one transaction that checks the version of the rows it was based on, so that no job is started twice.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from ci_runner.model.verdict import Verdict
from ci_runner.pipelines.plan import Plan, PlannedJob
from ci_runner.pipelines.report_status import ExecutionStatus, Part, of_job, overall
from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.protocol import TERMINAL_STATUSES, Phase, Status

#: Why a run is stopped as a whole.
StopIntent = Literal["cancel", "timeout"]
#: The state of a planned job: not begun; its job is queued or running; ended and may be retried; succeeded;
#: failed; failed, but allowed to; cancelled or never to be started; left out of this run.
State = Literal["waiting", "open", "again", "passed", "failed", "allowed", "cancelled", "skipped"]

_DONE: Final = ("passed", "allowed", "skipped")
_STATES: Final[Mapping[ExecutionStatus, State]] = {
    ExecutionStatus.SUCCESS: "passed",
    ExecutionStatus.FAILED: "failed",
    ExecutionStatus.CANCELED: "cancelled",
}


@dataclass(frozen=True)
class Facts:
    """The rows about one planned job and its newest job, if there is one."""

    job_id: str | None = None
    #: The number of jobs made before it.
    retry: int = 0
    status: Status = "queued"
    phase: Phase = "queued"
    success: bool | None = None
    exit_code: int | None = None
    reason: str | None = None
    #: Its end has already been requested.
    cancelling: bool = False
    #: The reason why it never starts.
    dropped: str | None = None
    #: The user or cause behind the request to end this planned job.
    cancelled_by: str | None = None
    #: The user or cause behind the request to end its newest job.
    halted_by: str | None = None
    #: When the first job that this run made for it left the queue.
    started: dt.datetime | None = None

    @property
    def word(self) -> ExecutionStatus:
        """The status of the planned job in reports."""
        if self.dropped is not None:
            return ExecutionStatus.CANCELED
        return ExecutionStatus.PENDING if self.job_id is None else of_job(self.status, self.success)


@dataclass(frozen=True)
class Start:
    """Make a job for a planned one."""

    name: str
    #: 0 for the first job.
    retry: int = 0


@dataclass(frozen=True)
class Drop:
    """Never start a planned job."""

    name: str
    reason: str


@dataclass(frozen=True)
class Halt:
    """Request the end of a job."""

    job_id: str
    #: The user or cause behind the request.
    by: str
    #: Only if it still waits in the queue.
    waiting_only: bool = False


@dataclass(frozen=True)
class Step:
    """All changes to write at once."""

    starts: tuple[Start, ...] = ()
    drops: tuple[Drop, ...] = ()
    halts: tuple[Halt, ...] = ()
    #: The run's verdict, if it ends.
    outcome: Verdict | None = None

    def __bool__(self) -> bool:
        return bool(self.starts or self.drops or self.halts or self.outcome is not None)


def part_of(job: PlannedJob, facts: Facts) -> Part:
    """Return a planned job in the form for `report_status.overall`."""
    return Part(facts.word, job.allow_failure, job.skipped is not None)


def deadlines(plan: Plan, facts: Mapping[str, Facts]) -> dict[str, dt.datetime]:
    """Return stage → its deadline, for stages that have begun and have a limit."""
    found = {}
    for stage, seconds in plan.stage_timeouts.items():
        begun = [
            moment
            for job in plan.jobs
            if job.stage == stage and (moment := facts[job.name].started) is not None
        ]
        if begun:
            found[stage] = min(begun) + dt.timedelta(seconds=seconds)
    return found


def decide(
    plan: Plan,
    facts: Mapping[str, Facts],
    *,
    now: dt.datetime | None = None,
    stop: StopIntent | None = None,
    by: str | None = None,
    reason: str | None = None,
    room: int = 1 << 30,
) -> Step:
    """Return the next step.

    `stop`: the run must end, on behalf of `by`; after a timeout, `reason` becomes the run's reason. `now`: compared
    with the deadlines of stages; without it, none passes. `room`: how many more of its jobs may wait in the runner's
    queue.
    """
    found = _Run(plan, facts, stop, now)
    drops = tuple(found.drops(by))
    starts = tuple(found.starts(room))
    halts = tuple(found.halts(by))
    return Step(starts, drops, halts, found.outcome(by, reason))


class _Run:
    """The rows and states of all jobs, updated while a step is decided."""

    def __init__(
        self, plan: Plan, facts: Mapping[str, Facts], stop: StopIntent | None, now: dt.datetime | None
    ) -> None:
        self._plan = plan
        self._facts = dict(facts)
        self._stop = stop
        self._states: dict[str, State] = {job.name: _state(job, facts[job.name]) for job in plan.jobs}
        self._broken = next((name for name, state in self._states.items() if state == "failed"), None)
        self._late = self._late_stages(now)
        #: Why no more jobs are started without a request to end the run.
        self._cause = (
            None if plan.keep_going else f"{self._broken!r} failed" if self._broken is not None else None
        )
        if self._cause is None and self._late and not plan.keep_going:
            self._cause = _timed_out(plan, self._late[0])
        #: No more jobs are started.
        self._ending = stop is not None or self._cause is not None
        for job in plan.jobs:
            if self._states[job.name] == "again" and (self._ending or job.stage in self._late):
                self._states[job.name] = "allowed" if job.allow_failure else "failed"

    def _late_stages(self, now: dt.datetime | None) -> list[str]:
        """Return, in order, unfinished stages past their deadline, and stages with jobs stopped for it earlier."""
        due = deadlines(self._plan, self._facts)
        found = []
        for stage in self._plan.stages:
            if stage not in self._plan.stage_timeouts:
                continue
            jobs = [job.name for job in self._plan.jobs if job.stage == stage]
            going = any(self._states[name] in ("waiting", "open", "again") for name in jobs)
            up = now is not None and stage in due and now >= due[stage]
            if (going and up) or any(self._was_cut(stage, self._facts[name]) for name in jobs):
                found.append(stage)
        return found

    def _was_cut(self, stage: str, facts: Facts) -> bool:
        """Return whether a job was already stopped for its stage's timeout, recognised by the stored text."""
        if facts.dropped is not None:
            return facts.dropped == _timed_out(self._plan, stage)
        return facts.halted_by == _blamed(self._plan, stage)

    def drops(self, by: str | None) -> Iterator[Drop]:
        """Yield jobs that can no longer start, and then those that need them."""
        changed = True
        while changed:
            changed = False
            for job in self._plan.jobs:
                reason = self._why_not(job, by) if self._states[job.name] == "waiting" else None
                if reason is not None:
                    self._states[job.name] = "cancelled"
                    self._facts[job.name] = replace(self._facts[job.name], dropped=reason)
                    changed = True
                    yield Drop(job.name, reason)

    def _why_not(self, job: PlannedJob, by: str | None) -> str | None:
        cancelled_by = self._facts[job.name].cancelled_by
        if cancelled_by is not None:
            return f"cancelled by {cancelled_by}"
        if job.stage in self._late and self._stop is None:
            return _timed_out(self._plan, job.stage)
        for need in job.needs:
            if self._states[need] in ("failed", "cancelled"):
                became = "failed" if self._states[need] == "failed" else "was cancelled"
                return f"needs {need!r}, which {became}"
        if self._stop == "cancel":
            return f"cancelled by {by or 'its user'}"
        if self._stop == "timeout":
            return "the run timed out"
        return self._cause

    def starts(self, room: int) -> Iterator[Start]:
        """Yield jobs with all needs done, up to `room`; retries first."""
        if self._ending:
            return
        ready = [job for job in self._plan.jobs if self._states[job.name] == "again"]
        ready += [
            job
            for job in self._plan.jobs
            if self._states[job.name] == "waiting" and all(self._states[need] in _DONE for need in job.needs)
        ]
        for job in ready[: max(0, room)]:
            again = self._states[job.name] == "again"
            yield Start(job.name, self._facts[job.name].retry + 1 if again else 0)

    def halts(self, by: str | None) -> Iterator[Halt]:
        """Yield queued and running jobs that must end."""
        for job in self._plan.jobs:
            facts = self._facts[job.name]
            if self._states[job.name] != "open" or facts.cancelling or facts.job_id is None:
                continue
            if facts.cancelled_by is not None:
                yield Halt(facts.job_id, facts.cancelled_by)
            elif self._stop is not None:
                yield Halt(
                    facts.job_id, (by or "its user") if self._stop == "cancel" else "the run's timeout"
                )
            elif job.stage in self._late:
                yield Halt(facts.job_id, _blamed(self._plan, job.stage))
            elif self._ending and facts.phase == "queued":
                yield Halt(facts.job_id, f"the run, because {self._cause}", waiting_only=True)

    def outcome(self, by: str | None, reason: str | None) -> Verdict | None:
        """Return the run's verdict once nothing in it can change, else None."""
        states = self._states.values()
        if any(state in ("waiting", "open", "again") for state in states):
            return None
        cut = "cancelled" in states
        if self._stop == "timeout" and cut:
            return Verdict("failed", False, None, reason or "the run timed out")
        if self._stop == "cancel" and cut:
            return Verdict("cancelled", None, None, f"cancelled by {by or 'its user'}")
        word = overall(part_of(job, self._facts[job.name]) for job in self._plan.jobs)
        if word is ExecutionStatus.FAILED:
            return Verdict("completed", False, None, self._failure())
        if word is ExecutionStatus.CANCELED and self._late:
            return Verdict("failed", False, None, _timed_out(self._plan, self._late[0]))
        if word is ExecutionStatus.CANCELED:
            name = next(name for name, state in self._states.items() if state == "cancelled")
            facts = self._facts[name]
            return Verdict(
                "cancelled", None, None, f"job {name!r}: {facts.dropped or facts.reason or 'cancelled'}"
            )
        left_out = states and all(state == "skipped" for state in states)
        return Verdict("completed", True, None, "every job is left out of this run" if left_out else None)

    def _failure(self) -> str:
        failed = [name for name, state in self._states.items() if state == "failed"]
        facts = self._facts[failed[0]]
        why = facts.reason or f"exit code {facts.exit_code}"
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return f"job {failed[0]!r} failed: {why}{more}"


def _timed_out(plan: Plan, stage: str) -> str:
    return f"stage {stage!r} timed out after {formats.duration(plan.stage_timeouts[stage])}"


def _blamed(plan: Plan, stage: str) -> str:
    return f"the timeout of stage {stage!r} ({formats.duration(plan.stage_timeouts[stage])})"


def _state(job: PlannedJob, facts: Facts) -> State:
    if job.skipped is not None:
        return "skipped"
    if facts.dropped is not None:
        return "cancelled"
    if facts.job_id is None:
        return "waiting"
    if facts.status not in TERMINAL_STATUSES:
        return "open"
    state = _STATES[of_job(facts.status, facts.success)]
    if state != "failed":
        return state
    if _is_worth_another(job, facts):
        return "again"
    return "allowed" if job.allow_failure else "failed"


def _is_worth_another(job: PlannedJob, facts: Facts) -> bool:
    """Return whether to retry: for the runner's own faults (no verdict, not a timeout) and for listed exit codes."""
    if facts.retry >= job.retries.count or facts.cancelling or facts.cancelled_by is not None:
        return False
    if facts.status == "failed":
        return facts.success is None
    return facts.exit_code in job.retries.exit_codes
