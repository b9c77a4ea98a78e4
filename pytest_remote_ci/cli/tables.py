"""Text tables of test results. Texts from tests are shown without characters that control a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from pytest_remote_ci.artifacts.download import shown
from pytest_remote_ci.wire import formats

#: Widest column that is padded.
_WIDEST = 40
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


def jobs(found: Iterable[Mapping[str, Any]], now: datetime) -> Iterator[str]:
    """Yield lines for jobs: beginning of the id, name, project, result, duration, age, reason."""
    rows = [("JOB", "NAME", "PROJECT", "RESULT", "DURATION", "AGE", "REASON")]
    for job in found:
        cells = (
            str(job.get("job_id"))[:8],
            _job_name(job),
            str(job.get("project") or "-"),
            result(job),
            _elapsed(job.get("start_time"), job.get("end_time"), now),
            _elapsed(job.get("submitted_at"), None, now),
            str(job.get("reason") or ""),
        )
        rows.append(tuple(shown(cell) for cell in cells))  # type: ignore[arg-type]  # as many as above
    widths = [min(max(len(row[column]) for row in rows), _WIDEST) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def result(job: Mapping[str, Any]) -> str:
    """Return a job's result in words: ``3 failed, 40 passed``, or its state while it has none."""
    status, counts = str(job.get("status")), job.get("counts")
    numbers = ""
    if isinstance(counts, dict):
        ordered = sorted(counts.items(), key=lambda item: (_rank(item[0]), str(item[0])))
        numbers = ", ".join(f"{number} {outcome}" for outcome, number in ordered)
    if status == "completed":
        words = "passed" if job.get("success") else f"failed (exit code {job.get('exit_code')})"
        # Tests can all have passed in a job that failed, for example for lack of coverage.
        is_told = numbers and bool(job.get("success")) != any(_rank(name) < 2 for name in counts or ())
        return numbers if is_told else ", ".join(filter(None, (words, numbers)))
    if status == "queued" and job.get("queue_position"):
        return f"queued, position {job.get('queue_position')}"
    words = {"failed": "no verdict", "running": str(job.get("phase") or "running")}.get(status, status)
    return ", ".join(filter(None, (words, numbers)))


def _job_name(job: Mapping[str, Any]) -> str:
    """Return a job's name; for a job of a run, the run's id, its stage and its name in the plan."""
    if job.get("run_id"):
        return f"run {str(job['run_id'])[:8]}: {job.get('stage')} / {job.get('planned')}"
    return str(job.get("name") or "-")


def _elapsed(start: object, end: object, now: datetime) -> str:
    began = formats.parse_time(start)
    if began is None:
        return "-"
    return formats.duration(max(0.0, ((formats.parse_time(end) or now) - began).total_seconds()))


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
