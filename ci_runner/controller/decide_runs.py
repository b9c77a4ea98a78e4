"""Runs in a tick: which of them have changed, and the next step of each.

`ci_runner.pipelines.scheduler` decides a run's next step. Its decision depends on rows alone, and every change to
these raises the run's version. So a run is not examined again until its version changes, and a run of hundreds of
jobs adds nothing to an idle tick.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Final

from ci_runner.controller.actions import Action, AdvanceRun
from ci_runner.controller.snapshot import OpenRun, Snapshot
from ci_runner.model.verdict import failed
from ci_runner.pipelines import scheduler
from ci_runner.pipelines.run import Run
from ci_runner.pipelines.scheduler import Step, StopIntent
from ci_runner.store import Store
from pytest_remote_ci.wire import formats

#: Jobs of one run that may wait in the queue beyond the number that may run: enough to keep the runner busy.
_MARGIN: Final = 2


def decide(world: Snapshot) -> Iterator[Action]:
    """Yield the next step of each run that has one."""
    for item in world.runs:
        if item.run.id in world.in_flight:
            continue
        action = _isolated(item, world.now, world.policy.concurrency)
        if action is not None:
            yield action


def deadlines(world: Snapshot) -> Iterator[dt.datetime]:
    """Yield the moments, past or to come, at which time alone may change the decision about runs."""
    for item in world.runs:
        yield from item.deadlines
        limit = _limit(item.run)
        if limit is not None:
            yield limit


def _isolated(item: OpenRun, now: dt.datetime, concurrency: int) -> AdvanceRun | None:
    """Return the run's step; end the run if deciding fails, so that it does not block the others."""
    intent = _intent(item)
    run = item.run
    queued = sum(facts.job_id is not None and facts.phase == "queued" for facts in item.facts.values())
    limit = f"the run timed out after {formats.duration(run.timeout)}" if run.timeout else None
    try:
        step = scheduler.decide(
            run.plan,
            item.facts,
            now=now,
            stop=intent,
            by=run.cancelled_by,
            reason=limit,
            room=concurrency + _MARGIN - queued,
        )
    except Exception as error:
        words = f"internal error of the runner ({type(error).__name__}: {error})"
        step = Step(outcome=failed(words))
    return AdvanceRun(run, item.facts, step, intent) if step else None


def _intent(item: OpenRun) -> StopIntent | None:
    """Return why the run is to stop: the recorded reason, else one that applies now."""
    if item.run.stop_intent is not None:
        return item.run.stop_intent
    if item.run.cancel_requested_at is not None:
        return "cancel"
    return "timeout" if item.timed_out else None


class RunTable:
    """The controller's open runs; for one thread only."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, OpenRun] = {}
        #: Run id → the state that was decided about without any action.
        self._idle: dict[str, OpenRun] = {}

    def read(self, now: dt.datetime, *, refresh: bool = True) -> tuple[OpenRun, ...]:
        """Return the runs that may need a step; `refresh` False: the store has not changed since the last call."""
        if refresh:
            self._update()
        found = []
        for item in list(self._known.values()):
            seen = _at(item, now)
            if seen is not item:
                item = self._known[item.run.id] = seen
            if self._idle.get(item.run.id) is not item:
                found.append(item)
        return tuple(found)

    def _update(self) -> None:
        versions = self._store.runs.open_versions()
        for gone in self._known.keys() - versions.keys():
            del self._known[gone]
            self._idle.pop(gone, None)
        for run_id, version in versions.items():
            known = self._known.get(run_id)
            if known is None or known.run.version != version:
                self._load(run_id, known)

    def mark_idle(self, runs: Collection[OpenRun], busy: Collection[str]) -> None:
        """Record that these runs were decided about and, except for those in `busy`, need nothing."""
        for item in runs:
            if item.run.id not in busy:
                self._idle[item.run.id] = item

    def _load(self, run_id: str, known: OpenRun | None) -> None:
        """Load the run before its facts: a change in between makes the step be refused."""
        runs = self._store.runs
        run = runs.get(run_id) if known is None else runs.refreshed(known.run)
        if run is not None:
            facts = runs.facts(run_id)
            moments = scheduler.deadlines(run.plan, facts).values() if run.plan.stage_timeouts else ()
            self._known[run_id] = OpenRun(run, facts, deadlines=tuple(moments))


def _at(item: OpenRun, now: dt.datetime) -> OpenRun:
    """Return the run as of `now`: the same object unless a deadline has passed since."""
    limit = _limit(item.run)
    timed_out = item.timed_out if limit is None else now >= limit
    passed = sum(now >= moment for moment in item.deadlines)
    if (timed_out, passed) == (item.timed_out, item.passed):
        return item
    return replace(item, timed_out=timed_out, passed=passed)


def _limit(run: Run) -> dt.datetime | None:
    """Return the run's deadline; None if it has none, or has not begun."""
    if run.timeout is None or run.start_time is None:
        return None
    return run.start_time + dt.timedelta(seconds=run.timeout)
