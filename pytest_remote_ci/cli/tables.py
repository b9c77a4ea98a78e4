"""Text tables of test results. Texts from tests are shown without characters that control a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from pytest_remote_ci.artifacts.download import shown
from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.answers import Job, RunSummary, TestHistory, TestReport, TestResult

#: Widest column that is padded.
_WIDEST = 40
#: Order of outcomes, worst first.
_ORDER = ("error", "failed", "xpassed", "unfinished", "xfailed", "skipped", "passed")


def results(tests: Iterable[TestResult]) -> Iterator[str]:
    """Yield lines for the tests of one job: outcome, seconds, id; worst first."""
    found = sorted(tests, key=lambda test: (_rank(test.outcome), test.id))
    if not found:
        yield "No results of single tests (only recorded sessions have them)."
    for test in found:
        seconds = formats.exact_duration(test.duration)
        yield f"{shown(test.outcome):<12}{seconds:>10}  {shown(test.id)}"


def report(answer: TestReport) -> Iterator[str]:
    """Yield lines for a report over several jobs."""
    jobs, tests = answer.jobs, answer.tests
    if not jobs:
        yield "No recorded runs of this project yet."
        return
    yield f"{len(jobs)} runs, {formats.time(jobs[0].at)} to {formats.time(jobs[-1].at)}"
    if not tests:
        yield {"flaky": "No flaky tests.", "failing-since": "Nothing fails that passed before."}.get(
            answer.kind, "No tests."
        )
        return
    yield f"{'PASSED':>7}{'RUNS':>6}{'MEAN':>10}{'TREND':>8}  TEST"
    for test in tests:
        yield (
            f"{_rate(test.pass_rate):>7}{sum(test.counts.values()):>6}"
            f"{formats.exact_duration(test.duration):>10}{_trend(test.before, test.now):>8}"
            f"  {shown(test.id)}{_remark(test)}"
        )


def runs(found: Iterable[RunSummary]) -> Iterator[str]:
    """Yield lines for runs: name and number, status, times, id."""
    yield f"{'RUN':<24} {'STATUS':<12} {'START TIME':<22} {'END TIME':<22} RUN ID"
    for run in found:
        status = "passed" if run.success else run.status
        if run.status == "completed" and not run.success:
            status = "failed"
        times = f"{formats.time(run.start_time):<22} {formats.time(run.end_time):<22}"
        yield f"{shown(run.title):<24} {shown(status):<12} {times} {shown(run.run_id)}"


def jobs(found: Iterable[Job], now: datetime) -> Iterator[str]:
    """Yield lines for jobs: beginning of the id, name, project, result, duration, age, reason."""
    rows = [["JOB", "NAME", "PROJECT", "RESULT", "DURATION", "AGE", "REASON"]]
    for job in found:
        cells = (
            job.job_id[:8],
            _job_name(job),
            job.project or "-",
            result(job),
            _elapsed(job.start_time, job.end_time, now),
            _elapsed(job.submitted_at, None, now),
            job.reason,
        )
        rows.append([shown(cell) for cell in cells])
    widths = [min(max(len(row[column]) for row in rows), _WIDEST) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def result(job: Job) -> str:
    """Return a job's result in words: ``3 failed, 40 passed``, or its state while it has none."""
    ordered = sorted(job.counts.items(), key=lambda item: (_rank(item[0]), item[0]))
    numbers = ", ".join(f"{number} {outcome}" for outcome, number in ordered)
    if job.status == "completed":
        words = "passed" if job.success else f"failed (exit code {job.exit_code})"
        # Tests can all have passed in a job that failed, for example for lack of coverage.
        is_clear = numbers and bool(job.success) != any(_rank(name) < 2 for name in job.counts)
        return numbers if is_clear else ", ".join(filter(None, (words, numbers)))
    if job.status == "queued" and job.queue_position:
        place = f"queued, position {job.queue_position}"
        return f"{place}: {job.detail}" if job.detail else place
    words = {"failed": "no verdict", "running": job.phase or "running"}.get(job.status, job.status)
    return ", ".join(filter(None, (words, numbers)))


def _job_name(job: Job) -> str:
    """Return a job's name; for a job of a run, the run's id, its stage and its name in the plan."""
    if job.run_id:
        return f"run {job.run_id[:8]}: {job.stage} / {job.planned}"
    return job.name or "-"


def _elapsed(start: str | None, end: str | None, now: datetime) -> str:
    began = formats.parse_time(start)
    if began is None:
        return "-"
    return formats.duration(max(0.0, ((formats.parse_time(end) or now) - began).total_seconds()))


def _remark(test: TestHistory) -> str:
    words = []
    since = test.failing_since
    if since is not None:
        words.append(f"failing since {formats.time(since.at)}, job {shown(since.job_id)}")
    if test.flaky_workspaces:
        words.append("flaky: passed and failed on the same files")
    elif test.is_flaky:
        words.append("flaky: passed when it was run again")
    return f"  ({'; '.join(words)})" if words else ""


def _rank(outcome: str) -> int:
    return _ORDER.index(outcome) if outcome in _ORDER else len(_ORDER)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _trend(before: float | None, now: float | None) -> str:
    """Return how much slower (or faster) the newer half of the runs is, in percent."""
    if before is None or now is None or before < 0.001:
        return "-"
    return f"{now / before - 1:+.0%}"
