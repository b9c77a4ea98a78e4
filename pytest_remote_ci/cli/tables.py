"""Text tables of test results. Texts from tests are shown without characters that control a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pytest_remote_ci.artifacts.download import shown
from pytest_remote_ci.wire import formats

#: Order of outcomes, worst first.
_ORDER = ("error", "failed", "xpassed", "unfinished", "xfailed", "skipped", "passed")


def results(tests: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield lines for the tests of one job: outcome, seconds, id; worst first."""
    found = sorted(tests, key=lambda test: (_rank(test.get("outcome")), str(test.get("id"))))
    if not found:
        yield "No results of single tests (only recorded sessions have them)."
    for test in found:
        seconds = formats.exact_duration(test.get("duration"))
        yield f"{shown(str(test.get('outcome'))):<12}{seconds:>10}  {shown(str(test.get('id')))}"


def report(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines for a report over several runs, as the API returns it."""
    runs, tests = answer.get("runs") or [], answer.get("tests") or []
    if not runs:
        yield "No recorded runs of this project yet."
        return
    yield f"{len(runs)} runs, {formats.time(runs[0].get('at'))} to {formats.time(runs[-1].get('at'))}"
    kind = answer.get("kind")
    if not tests:
        yield {"flaky": "No flaky tests.", "failing-since": "Nothing fails that passed before."}.get(
            str(kind), "No tests."
        )
        return
    yield f"{'PASSED':>7}{'RUNS':>6}{'MEAN':>10}{'TREND':>8}  TEST"
    for test in tests:
        yield (
            f"{_rate(test.get('pass_rate')):>7}{sum((test.get('counts') or {}).values()):>6}"
            f"{formats.exact_duration(test.get('duration')):>10}{_trend(test.get('before'), test.get('now')):>8}"
            f"  {shown(str(test.get('id')))}{_remark(test)}"
        )


def runs(found: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield lines for runs: name and number, status, times, id."""
    yield f"{'RUN':<24} {'STATUS':<12} {'START TIME':<22} {'END TIME':<22} RUN ID"
    for run in found:
        status = "passed" if run.get("success") else str(run.get("status"))
        if run.get("status") == "completed" and not run.get("success"):
            status = "failed"
        name = f"{run.get('pipeline')}#{run.get('number')}"
        times = f"{formats.time(run.get('start_time')):<22} {formats.time(run.get('end_time')):<22}"
        yield f"{shown(name):<24} {shown(status):<12} {times} {shown(str(run.get('run_id')))}"


def _remark(test: Mapping[str, Any]) -> str:
    words = []
    since = test.get("failing_since")
    if isinstance(since, dict):
        words.append(f"failing since {formats.time(since.get('at'))}, job {shown(str(since.get('job_id')))}")
    if test.get("flaky_workspaces"):
        words.append("flaky: passed and failed on the same files")
    elif test.get("flaky"):
        words.append("flaky: passed when it was run again")
    return f"  ({'; '.join(words)})" if words else ""


def _rank(outcome: object) -> int:
    return _ORDER.index(str(outcome)) if outcome in _ORDER else len(_ORDER)


def _rate(value: object) -> str:
    return f"{value:.0%}" if isinstance(value, (int, float)) else "-"


def _trend(before: object, now: object) -> str:
    """Return how much slower (or faster) the newer half of the runs is, in percent."""
    if not isinstance(before, (int, float)) or not isinstance(now, (int, float)) or before < 0.001:
        return "-"
    return f"{now / before - 1:+.0%}"
