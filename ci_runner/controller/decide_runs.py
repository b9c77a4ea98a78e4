"""Runs of pipelines in a tick: which of them have news, and what is decided about those.

What a run does next is `ci_runner.pipelines.scheduler`'s to say. Its decision depends on rows alone, and every change
of these raises the run's version; so a run whose version was decided about is not looked at again, and a run of
hundreds of jobs costs an idle tick nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Final

from ci_runner.controller.actions import Action, AdvanceRun
from ci_runner.controller.snapshot import OpenRun, World
from ci_runner.model.verdict import failed
from ci_runner.pipelines import scheduler
from ci_runner.pipelines.run import Run
from ci_runner.pipelines.scheduler import Step, StopIntent
from ci_runner.store import Store
from pytest_remote_ci.terminal import formats

#: Jobs of one run that wait in the queue at most, beside one for each that may run: enough to keep the runner busy.
_MARGIN: Final = 2


def decide(world: World) -> Iterator[Action]:
    """The next step of each run that has one."""
    for item in world.runs:
        if item.run.id in world.in_flight:
            continue
        action = _isolated(item, world.now, world.policy.concurrency)
        if action is not None:
            yield action


def deadlines(world: World) -> Iterator[dt.datetime]:
    """Yield the moments, past or to come, at which time alone may change what is decided about the runs."""
    for item in world.runs:
        yield from item.deadlines
        limit = _limit(item.run)
        if limit is not None:
            yield limit


def _isolated(item: OpenRun, now: dt.datetime, concurrency: int) -> AdvanceRun | None:
    """A run that cannot be decided about ends; it does not keep the others waiting."""
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
    """Why the run is to stop: what is recorded, else what is due now."""
    if item.run.stop_intent is not None:
        return item.run.stop_intent
    if item.run.cancel_requested_at is not None:
        return "cancel"
    return "timeout" if item.timed_out else None


class RunTable:
    """What a controller knows of the open runs; one thread only."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, OpenRun] = {}
        #: Run id → what was decided about, and there was nothing to do.
        self._settled: dict[str, OpenRun] = {}

    def read(self, now: dt.datetime, *, anew: bool = True) -> tuple[OpenRun, ...]:
        """The runs that may have something to do; not `anew`: nobody has written to the store since the last time."""
        if anew:
            self._update()
        found = []
        for item in list(self._known.values()):
            seen = _at(item, now)
            if seen is not item:
                item = self._known[item.run.id] = seen
            if self._settled.get(item.run.id) is not item:
                found.append(item)
        return tuple(found)

    def _update(self) -> None:
        versions = self._store.runs.open_versions()
        for gone in self._known.keys() - versions.keys():
            del self._known[gone]
            self._settled.pop(gone, None)
        for run_id, version in versions.items():
            known = self._known.get(run_id)
            if known is None or known.run.version != version:
                self._load(run_id, known)

    def settle(self, runs: Collection[OpenRun], busy: Collection[str]) -> None:
        """These were decided about, and nothing is to be done but for those in `busy`."""
        for item in runs:
            if item.run.id not in busy:
                self._settled[item.run.id] = item

    def _load(self, run_id: str, known: OpenRun | None) -> None:
        """The run before its facts: what changes in between makes the step be refused."""
        runs = self._store.runs
        run = runs.get(run_id) if known is None else runs.refreshed(known.run)
        if run is not None:
            facts = runs.facts(run_id)
            moments = scheduler.deadlines(run.plan, facts).values() if run.plan.stage_timeouts else ()
            self._known[run_id] = OpenRun(run, facts, deadlines=tuple(moments))


def _at(item: OpenRun, now: dt.datetime) -> OpenRun:
    """The run as it is at that time: the same object, unless a time of it is up that was not."""
    limit = _limit(item.run)
    timed_out = item.timed_out if limit is None else now >= limit
    passed = sum(now >= moment for moment in item.deadlines)
    if (timed_out, passed) == (item.timed_out, item.passed):
        return item
    return replace(item, timed_out=timed_out, passed=passed)


def _limit(run: Run) -> dt.datetime | None:
    """Return when the run's time is up; None: never, or it has not begun."""
    if run.timeout is None or run.start_time is None:
        return None
    return run.start_time + dt.timedelta(seconds=run.timeout)
