"""Test results: from one session's reports to a result per test, and from many runs to a history.

Pure. The reports are claims of a job's own code, so everything in them is checked before it counts.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from ci_runner.model.job import JobEvent
from pytest_remote_ci.wire import records as wire

Outcome = Literal["unfinished", "passed", "skipped", "xfailed", "xpassed", "failed", "error"]
#: From best to worst: of a test's phases the worst counts. Stored as indexes of this list.
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)
GOOD: Final = frozenset({"passed", "xfailed"})
BAD: Final = frozenset({"failed", "error"})

#: Longer node ids are cut at this number of characters.
MAX_NODE_ID: Final = 2000
#: Maximum accepted duration, in seconds.
_LONGEST: Final = 1e6
_RANKS: Final[Mapping[str, int]] = {name: rank for rank, name in enumerate(OUTCOMES)}


@dataclass(frozen=True)
class TestResult:
    """The result of one test in one job."""

    __test__ = False

    node_id: str
    outcome: Outcome
    #: Seconds of all phases.
    duration: float
    #: How often it was run again in the same session.
    reruns: int
    #: When its first report came.
    at: dt.datetime
    job_id: str = ""
    #: Digest of its workspace.
    workspace: str | None = None


@dataclass
class Part:
    """The result of some reports about one test: the worst of them, and sums."""

    at: dt.datetime
    rank: int = 0
    duration: float = 0.0
    reruns: int = 0


def parts(events: Iterable[JobEvent], now: dt.datetime) -> dict[str, Part]:
    """Return node id → result of the reports in `events`; all events together give each test's result."""
    found: dict[str, Part] = {}
    for event in events:
        if event.type != "report":
            continue
        for node_id, category, seconds in _reports(event.fields):
            node_id = node_id[:MAX_NODE_ID]
            part = found.get(node_id)
            if part is None:
                part = found[node_id] = Part(event.timestamp or now)
            part.reruns += category == "rerun"
            part.rank = max(part.rank, _RANKS.get(category, 0))
            part.duration += seconds
    return found


def _reports(fields: Mapping[str, object]) -> Iterator[tuple[str, str, float]]:
    """Yield node id, category and seconds of a record's reports, also of records that were written together."""
    for raw in wire.parts_of(fields):
        kind = wire.kind_of(raw)
        with contextlib.suppress(wire.RecordError):
            if kind is wire.Passed:
                passed = wire.Passed.parse(raw)
                found = passed.id, "passed" if passed.when == "call" else "", _duration(passed.duration)
            elif kind is wire.Report:
                report = wire.Report.parse(raw)
                found = report.nodeid, _category(report), _duration(report.d.get("duration"))
            else:
                continue
            if found[0]:
                yield found


def _category(report: wire.Report) -> str:
    """Return pytest's category; "" for a phase that does not count."""
    if report.status is not None:
        return report.status[0]
    data = report.d
    when, outcome = data.get("when"), data.get("outcome")
    if data.get("wasxfail") is not None and outcome in ("skipped", "passed"):
        return "xfailed" if outcome == "skipped" else ("xpassed" if when == "call" else "")
    if outcome == "failed":
        return "failed" if when == "call" else "error"
    if outcome == "passed":
        return "passed" if when == "call" else ""
    return "skipped" if outcome == "skipped" else ""


def _duration(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return 0.0
    return min(max(float(value), 0.0), _LONGEST)


@dataclass(frozen=True)
class TestHistory:
    """The history of one test over several runs."""

    __test__ = False

    node_id: str
    #: Runs by outcome.
    counts: Mapping[str, int]
    #: Share of passed (or xfailed) among passed and failed; None if there are neither.
    pass_rate: float | None
    #: Mean seconds, of all runs and of the older and newer half of them (None with fewer than four).
    duration: float
    before: float | None
    now: float | None
    #: Total of repetitions within sessions.
    reruns: int
    #: Workspaces on which it both passed and failed.
    flaky_workspaces: int
    #: Job and time of the first failed run without a later good one, if there is an earlier good one.
    failing_since: tuple[str, dt.datetime] | None
    last: TestResult

    @property
    def is_flaky(self) -> bool:
        """Return whether the same files had both outcomes.

        This counts on one workspace, or in one session with reruns until the test passed.
        """
        return self.flaky_workspaces > 0 or (self.reruns > 0 and self.counts.get("passed", 0) > 0)


def history(runs: Sequence[TestResult]) -> TestHistory:
    """Return the history of one test's runs, oldest first; at least one."""
    counts: dict[str, int] = {}
    workspaces: dict[str, set[bool]] = {}
    for run in runs:
        counts[run.outcome] = counts.get(run.outcome, 0) + 1
        if run.workspace is not None and run.outcome in GOOD | BAD:
            workspaces.setdefault(run.workspace, set()).add(run.outcome in GOOD)
    good, bad = (sum(counts.get(name, 0) for name in names) for names in (GOOD, BAD))
    ran = [run.duration for run in runs if run.outcome != "skipped"] or [0.0]
    half = len(ran) // 2
    return TestHistory(
        node_id=runs[-1].node_id,
        counts=counts,
        pass_rate=good / (good + bad) if good + bad else None,
        duration=_mean(ran),
        before=_mean(ran[:half]) if len(ran) >= 4 else None,
        now=_mean(ran[half:]) if len(ran) >= 4 else None,
        reruns=sum(run.reruns for run in runs),
        flaky_workspaces=sum(len(seen) == 2 for seen in workspaces.values()),
        failing_since=_failing_since(runs),
        last=runs[-1],
    )


def _failing_since(runs: Sequence[TestResult]) -> tuple[str, dt.datetime] | None:
    verdicts = [run for run in runs if run.outcome in GOOD | BAD]
    first: TestResult | None = None
    for run in reversed(verdicts):
        if run.outcome in GOOD:
            return (first.job_id, first.at) if first is not None else None
        first = run
    return None  # no earlier good run: the beginning is unknown


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
