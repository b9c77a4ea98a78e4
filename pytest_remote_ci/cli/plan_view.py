"""Text view of a plan: a tree of stages and jobs, and the critical path."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.answers import Plan, PlannedJob
from pytest_remote_ci.wire.control_characters import escaped

#: Name of a job (with its matrix cell) → its past duration in seconds.
Durations = Mapping[str, float]


def tree(plan: Plan, durations: Durations | None = None) -> Iterator[str]:
    """Yield the lines of the tree, in the order of stages, with past durations where they are known."""
    for stage in plan.stages:
        timeout = plan.stage_timeouts.get(stage)
        yield f"{escaped(stage)}:" + (f"  [timeout: {formats.duration(timeout)}]" if timeout else "")
        for job in plan.jobs:
            if job.stage == stage:
                yield from _job(job, (durations or {}).get(job.name))


def _job(job: PlannedJob, duration: float | None) -> Iterator[str]:
    left_out = f"  [left out: {job.skipped}]" if job.skipped else ""
    yield escaped(f"  {job.name}:{left_out}")
    yield escaped(f"    image: {_image(job)}")
    yield "    script:"
    for command in job.script or [_pytest(job)]:
        first, *rest = command.split("\n")
        yield f"      - {first}"
        yield from (f"        {line}" for line in rest)
    for key, text in _details(job, duration):
        yield escaped(f"    {key}: {text}")


def _image(job: PlannedJob) -> str:
    return job.image or f"the runner's own{f' for Python {job.python}' if job.python else ''}"


def _pytest(job: PlannedJob) -> str:
    return shlex.join(["python", "-m", "pytest", *job.args])


def _details(job: PlannedJob, duration: float | None) -> Iterator[tuple[str, str]]:
    if job.image and job.python:
        yield "python", job.python
    for key, names in (("needs", job.artifacts_from), ("secrets", job.secrets), ("artifacts", job.artifacts)):
        if names:
            yield key, ", ".join(names)
    if job.env:
        yield "env", ", ".join(f"{name}={value}" for name, value in job.env.items())
    if job.services:
        yield "services", ", ".join(f"{service.name} ({service.image})" for service in job.services)
    if job.allow_failure:
        yield "allow failure", "yes"
    if job.retries.count or job.retries.exit_codes:
        codes = ", ".join(map(str, job.retries.exit_codes))
        yield "retries", f"{job.retries.count}{f' (also after exit codes {codes})' if codes else ''}"
    if job.timeout:
        yield "timeout", formats.duration(job.timeout)
    if duration is not None:
        yield "last took", formats.duration(duration)


def critical_path(plan: Plan, durations: Durations) -> tuple[list[str], float]:
    """Return the longest chain of jobs that wait for each other, by past durations, and its seconds.

    Jobs without a past duration count as 0 s and are omitted; if no job has one, the result is ([], 0.0). Skipped
    jobs are ignored.
    """
    jobs = {job.name: job for job in plan.jobs if not job.skipped}
    best: dict[str, tuple[float, str | None]] = {}
    for name in _in_order(jobs):
        before = [need for need in jobs[name].needs if need in jobs]
        longest = max(before, key=lambda need: best[need][0], default=None)
        start = best[longest][0] if longest is not None else 0.0
        best[name] = (start + durations.get(name, 0.0), longest)
    last: str | None = max(best, key=lambda name: best[name][0], default=None)
    total = best[last][0] if last is not None else 0.0
    path: list[str] = []
    while total and last is not None:
        if last in durations:
            path.append(last)
        last = best[last][1]
    return path[::-1], total


def _in_order(jobs: Mapping[str, PlannedJob]) -> list[str]:
    """Return the names of jobs, each after the jobs that it needs."""
    missing = {name: sum(need in jobs for need in job.needs) for name, job in jobs.items()}
    users: dict[str, list[str]] = {name: [] for name in jobs}
    for name, job in jobs.items():
        for need in job.needs:
            if need in users:
                users[need].append(name)
    order = [name for name, count in missing.items() if not count]
    for name in order:
        for user in users[name]:
            missing[user] -= 1
            if not missing[user]:
                order.append(user)
    return order


def critical_line(path: Sequence[str], seconds: float) -> str:
    """Return one line about the critical path."""
    return escaped(f"Critical path: {' -> '.join(path)} ({formats.duration(seconds)} by past durations)")
