"""`decide`: from one snapshot to the next actions. Pure: no clock, no I/O, no memory.

Level-triggered: it depends on the current state, not on what happened. So it may be called at any time, after any
crash, and returns the same result for the same world. It decides at most one action per job and snapshot (plus a stop
during a preparation); the next snapshot shows the result.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ci_runner.controller import decide_runs, verdicts
from ci_runner.controller.actions import (
    Action,
    Claim,
    Clean,
    Finish,
    Finishing,
    Kill,
    Launch,
    Prepare,
    Record,
    RemoveContainer,
    Retry,
    Stop,
    stop_subject,
)
from ci_runner.controller.engine import Observed
from ci_runner.controller.snapshot import Snapshot
from ci_runner.model.fair_queue import fair_order, running_per_user
from ci_runner.model.job import Job
from ci_runner.model.verdict import CONTAINER_LOST, DEACTIVATED, cancelled, failed

_OVER = ("exited", "dead", "removing")
#: Phases in which the user's command runs or has run.
_STARTED = ("testing", "finishing")


#: Seconds that the container of a job with a verdict gets to end by itself.
LINGER: Final = 1.0


@dataclass(frozen=True)
class Follow:
    """An attempt with a spool to read."""

    job: Job
    #: The container has ended or is gone: nothing will be added to the spool.
    over: bool


@dataclass(frozen=True)
class Decision:
    """The actions for one world, and how long they stay valid."""

    world: Snapshot
    #: In order of preference.
    actions: tuple[Action, ...]
    #: The next moment at which time alone may change the actions; None if there is none.
    until: dt.datetime | None

    def holds_in(self, later: Snapshot) -> bool:
        """Return whether `later` needs no new decision: only time has passed, and no deadline."""
        return (self.until is None or later.now < self.until) and later.differs_only_in_time(self.world)


def decide(world: Snapshot) -> Decision:
    """Return the actions to perform now, and until when they hold; leave out those paused after a failure."""
    timer = _Timer(world.now)
    actions = tuple(action for action in _all(world, timer) if action.key not in world.held)
    return Decision(world, actions, timer.next)


class _Timer:
    """Checks deadlines for one decision, and remembers the earliest one to come."""

    def __init__(self, now: dt.datetime) -> None:
        self._now = now
        #: The earliest requested moment that is still to come.
        self.next: dt.datetime | None = None

    def is_past(self, since: dt.datetime | None, seconds: float) -> bool:
        """Return whether `seconds` have passed since `since`; False if that is None."""
        return since is not None and self.has_come(since + dt.timedelta(seconds=seconds))

    def has_come(self, moment: dt.datetime) -> bool:
        """Return whether it is that time or later."""
        if self._now >= moment:
            return True
        self.next = moment if self.next is None else min(self.next, moment)
        return False


def _all(world: Snapshot, timer: _Timer) -> Iterator[Action]:
    yield from decide_runs.decide(world)
    for moment in decide_runs.deadlines(world):
        timer.has_come(moment)
    if world.observed is None:
        yield from _without_engine(world, timer)
        return
    sight = _ContainersByJob(world)
    own = [action for job in world.jobs for action in _isolated(world, timer, job, sight)]
    claims = list(_claims(world, _waiting(world)))
    yield from own
    yield from _launches(world, sight, {action.subject for action in own})
    yield from claims
    yield from _cleaning(world, timer, sight)
    yield from _orphans(world)


def follows(world: Snapshot) -> dict[tuple[str, int], Follow] | None:
    """Return the spools to read, by job and attempt; None if unknown, because the engine does not answer."""
    if world.observed is None:
        return None
    sight = _ContainersByJob(world)
    result = {}
    for job in world.jobs:
        if job.phase in ("starting", *_STARTED) and (job.container_id or sight.current(job)):
            over = not world.in_flight.get(job.id) and _is_over(job, sight.current(job))
            result[job.id, job.attempt] = Follow(job, over)
    return result


def writing(world: Snapshot) -> dict[str, tuple[str, ...]]:
    """Return open jobs with running containers: job id → container ids, builds and services included."""
    running: dict[str, tuple[str, ...]] = {}
    for item in world.observed or ():
        if item.state in ("running", "paused"):
            running[item.job_id] = (*running.get(item.job_id, ()), item.id)
    return {job.id: running[job.id] for job in world.jobs if job.id in running}


def serving(world: Snapshot) -> frozenset[str]:
    """Return the jobs with services that run or may be started at any moment."""
    return frozenset(
        job.id
        for job in world.jobs
        if job.phase in ("preparing", "starting", "testing") and job.options.submitted.services
    )


class _ContainersByJob:
    """The observed test containers by job."""

    def __init__(self, world: Snapshot) -> None:
        self._by_job: dict[str, list[Observed]] = {}
        self._services: dict[str, list[Observed]] = {}
        for item in world.observed or ():
            if item.role == "test":
                self._by_job.setdefault(item.job_id, []).append(item)
            elif item.role == "service":
                self._services.setdefault(item.job_id, []).append(item)

    def all(self, job: Job) -> list[Observed]:
        """Return all test containers of the job."""
        return self._by_job.get(job.id, [])

    def services(self, job: Job) -> list[Observed]:
        """Return the job's services."""
        return self._services.get(job.id, [])

    def current(self, job: Job) -> Observed | None:
        """Return the container of the current attempt: the recorded one, else the only possible one."""
        mine = [item for item in self.all(job) if item.attempt == job.attempt]
        if job.container_id is not None:
            mine = [item for item in mine if item.id == job.container_id]
        return mine[0] if mine else None


def _is_over(job: Job, current: Observed | None) -> bool:
    if current is None:
        return job.container_id is not None
    # Created, though its command already ran: the engine lost its state.
    return current.state in _OVER or (current.state == "created" and job.phase in _STARTED)


def _without_engine(world: Snapshot, timer: _Timer) -> Iterator[Action]:
    """Yield the actions that need no engine: cancel waiting jobs, interrupt preparations."""
    for job in world.jobs:
        if job.phase == "queued" and job.id not in world.in_flight:
            yield from _queued(world, job)
        elif job.phase == "preparing":
            yield from _interruption(world, timer, job)


def _isolated(world: Snapshot, timer: _Timer, job: Job, sight: _ContainersByJob) -> list[Action]:
    """Return the job's actions; end the job if deciding fails, so that it does not block the others."""
    try:
        return list(_of_job(world, timer, job, sight))
    except Exception as error:
        words = f"internal error of the runner ({type(error).__name__}: {error})"
        return [Finish(job.id, failed(words))] if job.id not in world.in_flight else []


def _of_job(world: Snapshot, timer: _Timer, job: Job, sight: _ContainersByJob) -> Iterator[Action]:
    """Yield the one next action of an open job, except actions that need a free slot."""
    if job.id in world.in_flight:
        yield from _interruption(world, timer, job)
        return
    current = sight.current(job)
    for stray in sight.all(job):
        if stray is not current or job.phase in ("queued", "preparing"):
            yield from _removal(world, stray)
    if job.phase == "queued":
        yield from _queued(world, job)
    elif job.phase == "preparing":
        yield from _preparing(world, timer, job)
    elif current is None and job.container_id is None:
        intent = _wanted_stop(world, timer, job)
        if intent:
            yield Finish(job.id, verdicts.stopped(job, intent, world.policy))
        elif job.phase != "starting":
            yield Finish(job.id, failed(CONTAINER_LOST))
    elif _is_over(job, current) or _has_ended(world, job):
        yield from _over(world, job, current)
    elif current is not None:
        yield from _live(world, timer, job, current)


def _has_ended(world: Snapshot, job: Job) -> bool:
    """Return whether the worker sent its exit frame.

    The verdict then need not wait until the engine has removed the container.
    """
    ending = world.endings.get((job.id, job.attempt))
    return ending is not None and ending.exit is not None


def _queued(world: Snapshot, job: Job) -> Iterator[Action]:
    if job.cancel_requested_at is not None:
        yield Finish(job.id, verdicts.stopped(job, "cancel", world.policy))
    elif job.user_id in world.inactive:
        yield Finish(job.id, cancelled(DEACTIVATED))


def _preparing(world: Snapshot, timer: _Timer, job: Job) -> Iterator[Action]:
    intent = _wanted_stop(world, timer, job)
    yield Finish(job.id, verdicts.stopped(job, intent, world.policy)) if intent else Prepare(job.id)


def _interruption(world: Snapshot, timer: _Timer, job: Job) -> Iterator[Action]:
    """Yield what ends a preparation in progress when its job is to stop."""
    intent = _wanted_stop(world, timer, job)
    asked = job.id in world.signalled or stop_subject(job.id) in world.in_flight
    if intent and not asked and "Prepare" in world.in_flight.get(job.id, ()):
        yield Stop(job.id, intent, None)


def _live(world: Snapshot, timer: _Timer, job: Job, current: Observed) -> Iterator[Action]:
    """Yield the action for a container that is created, running or paused."""
    intent = _wanted_stop(world, timer, job)
    if current.state == "created":
        if intent:  # the user's command never ran: there is no process to signal
            yield Finish(job.id, verdicts.stopped(job, intent, world.policy))
        return  # otherwise it waits for `_launches`
    if job.container_id is None:
        yield Record(job.id, job.attempt, current.id)
    elif intent is None:
        return
    elif intent in ("disk", "full") or timer.is_past(job.stop_requested_at, world.policy.grace):
        yield Kill(job.id, current.id, intent)
    elif job.id not in world.signalled and stop_subject(job.id) not in world.in_flight:
        yield Stop(job.id, intent, current.id)


def _over(world: Snapshot, job: Job, current: Observed | None) -> Iterator[Action]:
    """Yield the action for a container that has ended or is gone; none before its spool has been read to the end."""
    ending = world.endings.get((job.id, job.attempt))
    if ending is None:
        if job.phase == "testing":
            yield Finishing(job.id)
        return
    verdict = verdicts.ended(job, current, ending, world.policy)
    ran = ending.started or ending.exit is not None or job.phase in _STARTED
    if ran and job.options.wants_files:
        going = current.id if current is not None and not _is_over(job, current) else None
        yield Finish(job.id, verdict, collect=True, going=going)
    elif verdict.reason != CONTAINER_LOST or ran:
        yield Finish(job.id, verdict)
    elif job.attempt < world.policy.attempts:
        yield Retry(job.id, job.attempt, _why_not_started(current))
    else:
        reason = f"{CONTAINER_LOST}: {_why_not_started(current)} ({job.attempt} attempts)"
        yield Finish(job.id, failed(reason), current.id if current is not None else None)


def _why_not_started(current: Observed | None) -> str:
    if current is None:
        return "it vanished before the tests began"
    if current.error:
        return f"it could not be started: {current.error}"
    return f"it ended with code {current.exit_code} before the tests began"


def _wanted_stop(world: Snapshot, timer: _Timer, job: Job) -> str | None:
    """Return why the job is to stop: the recorded reason, else one that applies now."""
    if job.stop_intent is not None:
        return job.stop_intent
    if job.cancel_requested_at is not None:
        return "cancel"
    if job.id in world.over_disk and job.phase != "queued":
        return "disk"
    if job.id in world.filling_disk and job.phase != "queued":
        return "full"
    if job.phase == "preparing" and timer.is_past(job.phase_since, world.policy.prepare_timeout):
        return "timeout"
    # A container that runs, but has not reported its command's start, gets no more time than a test run.
    if (job.phase == "testing" or (job.phase == "starting" and job.container_id)) and timer.is_past(
        job.phase_since, verdicts.timeout_of(job, world.policy)
    ):
        return "timeout"
    return None


def _launches(world: Snapshot, sight: _ContainersByJob, busy: set[str]) -> Iterator[Action]:
    """Yield launches of prepared jobs for the free run slots, first come, first served."""
    ready, running = [], 0
    for job in world.jobs:
        if job.phase not in ("starting", *_STARTED):
            continue
        current = sight.current(job)
        created = current is not None and current.state == "created"
        if (
            job.phase == "starting"
            and job.id not in world.in_flight
            and (created or (current is None and job.container_id is None))
        ):
            ready.append(job)
        else:
            running += 1
    for job in sorted(ready, key=lambda job: (job.start_time or world.now, job.id)):
        current = sight.current(job)
        launch = Launch(job.id, job.attempt, current.id if current is not None else None)
        if running < world.policy.concurrency and job.id not in busy and launch.key not in world.held:
            running += 1
            yield launch


def _waiting(world: Snapshot) -> list[Job]:
    """Return the waiting jobs, the next one first."""
    queued = [
        job
        for job in world.jobs
        if job.phase == "queued"
        and job.cancel_requested_at is None
        and job.user_id not in world.inactive
        and job.id not in world.in_flight
    ]
    return fair_order(queued, world.served, running_per_user(world.jobs)) if queued else []


def _claims(world: Snapshot, waiting: list[Job]) -> Iterator[Claim]:
    """Yield claims for as many waiting jobs as allowed; those that build an environment hold no run slot.

    While as many jobs build as may, only users without a job being prepared get one claimed: no user waits behind
    another user's builds.
    """
    being_claimed = [job for job in world.jobs if job.phase == "queued" and job.id in world.in_flight]
    holding = len(being_claimed) + sum(job.phase != "queued" and not job.building for job in world.jobs)
    free = world.policy.concurrency - holding
    most = world.policy.most_building
    is_full = sum(job.building for job in world.jobs) >= most
    preparing = {job.user_id for job in world.jobs if job.phase == "preparing"}
    preparing.update(job.user_id for job in being_claimed)
    for job in waiting:
        if free <= 0 or (is_full and len(preparing) >= most):
            return
        if is_full and job.user_id in preparing:
            continue
        preparing.add(job.user_id)
        free -= 1
        # A job with a recently failed claim keeps its turn: a temporary failure lets no other job overtake.
        yield Claim(job.id)


def _cleaning(world: Snapshot, timer: _Timer, sight: _ContainersByJob) -> Iterator[Action]:
    for job in world.uncleaned:
        remains = sight.all(job)
        # After its exit frame, the worker's container ends by itself, at once.
        going = job.status == "completed" and any(item.state == "running" for item in remains)
        if job.id not in world.in_flight and not (going and not timer.is_past(job.end_time, LINGER)):
            # The job's own containers first: they use the services' network.
            yield Clean(job.id, tuple(item.id for item in (*remains, *reversed(sight.services(job)))))


def _orphans(world: Snapshot) -> Iterator[Action]:
    """Yield removals of containers (the engine lists only this install's) that belong to no job and no build."""
    known = {job.id for job in world.jobs} | {job.id for job in world.uncleaned}
    for item in world.observed or ():
        orphaned = item.name not in world.builds if item.role == "build" else item.job_id not in known
        if orphaned:
            yield from _removal(world, item)


def _removal(world: Snapshot, item: Observed) -> Iterator[Action]:
    if item.id not in world.in_flight:
        yield RemoveContainer(item.id, item.name)
