"""The scenarios played: the pure decider of runs against outcomes that a file tells, by a clock that only counts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.scenarios import FILES, load, plan_of

from ci_runner.pipelines import report_status, scheduler
from ci_runner.pipelines.plan import Plan
from ci_runner.pipelines.scheduler import StopIntent

#: The second 0 of all scenarios.
BEGIN = dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)
#: Steps that no scenario needs.
ENDLESS = 1000


class Played:
    """A run of a plan: each job ends as the scenario says, at the second that it says."""

    def __init__(self, plan: Plan, scenario: dict[str, Any]) -> None:
        self.plan = plan
        self.facts = {job.name: scheduler.Facts() for job in plan.jobs}
        #: Second → the jobs that started then.
        self.starts: dict[float, list[str]] = {}
        self.verdict: Any = None
        self._outcomes = scenario.get("outcomes", {})
        self._cancel_at = scenario.get("cancel", {}).get("at")
        #: Running job → when and how it ends.
        self._ends: dict[str, tuple[float, dict[str, Any]]] = {}
        self._now = 0.0

    def play(self) -> None:
        for _ in range(ENDLESS):
            stop: StopIntent | None = (
                "cancel" if self._cancel_at is not None and self._now >= self._cancel_at else None
            )
            step = scheduler.decide(self.plan, self.facts, now=self._clock(), stop=stop)
            self._apply(step)
            if step.outcome is not None:
                self.verdict = step.outcome
                return
            if not step:
                self._wait()
        raise AssertionError("the run does not end")

    def _clock(self) -> dt.datetime:
        return BEGIN + dt.timedelta(seconds=self._now)

    def _apply(self, step: Any) -> None:
        for drop in step.drops:
            self.facts[drop.name] = replace(self.facts[drop.name], dropped=drop.reason)
        for start in step.starts:
            assert start.name not in self._ends, f"{start.name} starts twice"
            self.starts.setdefault(self._now, []).append(start.name)
            fact = scheduler.Facts(
                job_id=f"{start.name}#{start.retry}",
                retry=start.retry,
                status="running",
                phase="testing",
                started=self.facts[start.name].started or self._clock(),
            )
            self.facts[start.name] = fact
            outcome = self._outcome(start.name, start.retry)
            self._ends[start.name] = (self._now + outcome.get("seconds", 1), outcome)
        for halt in step.halts:
            name = next(name for name, fact in self.facts.items() if fact.job_id == halt.job_id)
            if not halt.waiting_only:  # all jobs run here as soon as they are started
                self._ends.pop(name)
                self.facts[name] = replace(
                    self.facts[name],
                    status="cancelled",
                    phase="finishing",
                    cancelling=True,
                    halted_by=halt.by,
                    reason=f"cancelled by {halt.by}",
                )

    def _outcome(self, name: str, retry: int) -> dict[str, Any]:
        given = self._outcomes.get(name, {})
        return dict(given[min(retry, len(given) - 1)] if isinstance(given, list) else given)

    def _wait(self) -> None:
        """Until the next job ends, a stage's time is up, or the run is cancelled."""
        moments = [moment for moment, _ in self._ends.values()]
        due = scheduler.deadlines(self.plan, self.facts).values()
        moments += [seconds for each in due if (seconds := (each - BEGIN).total_seconds()) > self._now]
        if self._cancel_at is not None and self._cancel_at > self._now:
            moments.append(self._cancel_at)
        assert moments, "nothing runs, nothing is to be done, and the run does not end"
        self._now = min(moments)
        for name, (moment, outcome) in list(self._ends.items()):
            if moment <= self._now:
                del self._ends[name]
                code = None if "reason" in outcome else outcome.get("exit", 0)
                self.facts[name] = replace(
                    self.facts[name],
                    status="failed" if code is None else "completed",
                    phase="finishing",
                    success=None if code is None else code == 0,
                    exit_code=code,
                    reason=outcome.get("reason"),
                )

    def words(self, stage: str | None = None) -> Iterator[tuple[str, str]]:
        """Name and status of each job that takes part."""
        for job in self.plan.jobs:
            if not job.skipped and stage in (None, job.stage):
                yield job.name, self.facts[job.name].word.value

    def stages(self) -> dict[str, str]:
        """Name and status of each stage."""
        parts = {
            stage: [
                scheduler.part_of(job, self.facts[job.name]) for job in self.plan.jobs if job.stage == stage
            ]
            for stage in self.plan.stages
        }
        return {stage: report_status.overall(found).value for stage, found in parts.items()}


PLAYED = [file for file in FILES if "ends" in load(file)]


@pytest.mark.parametrize("file", PLAYED, ids=[file.stem for file in PLAYED])
def test_a_scenario_is_played_as_it_says(file: Path) -> None:
    scenario = load(file)
    run = Played(plan_of(scenario), scenario)
    run.play()
    assert list(run.starts.values()) == scenario["starts"]
    assert {
        "run": report_status.of_job(run.verdict.status, run.verdict.success).value,
        "stages": run.stages(),
        "jobs": dict(run.words()),
    } == {key: value for key, value in scenario["ends"].items() if key != "reason"}
    assert scenario["ends"].get("reason") in (None, run.verdict.reason)
