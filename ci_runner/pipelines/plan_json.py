"""Convert plans to and from JSON, for the store and for clients; parsing trusts no input.

Unknown fields are refused, not ignored: a field that an older runner ignores might be the one that keeps a job from
running.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Final

from ci_runner.model.decode import decode
from ci_runner.pipelines.graph import find_cycle
from ci_runner.pipelines.plan import Plan, PlannedJob, Retries, Service
from pytest_remote_ci.wire.protocol import WireError

#: Increased when the meaning of a stored plan changes.
VERSION: Final = 1


def write(plan: Plan) -> dict[str, object]:
    """See `Plan.to_dict`."""
    found: dict[str, object] = {
        "version": VERSION,
        "pipeline": plan.pipeline,
        "stages": list(plan.stages),
        "jobs": [_plain(job) for job in plan.jobs],
        "keep_going": plan.keep_going,
    }
    if plan.stage_timeouts:  # older runners accept plans without the field
        found["stage_timeouts"] = dict(plan.stage_timeouts)
    return found


def read(raw: object) -> Plan:
    """See `Plan.from_dict`."""
    if not isinstance(raw, dict):
        raise WireError("plan: must be a JSON object")
    if raw.get("version") != VERSION:
        raise WireError(f"plan.version: must be {VERSION}, not {raw.get('version')!r}")
    plan = decode("plan", {name: value for name, value in raw.items() if name != "version"}, Plan)
    _hold_together(plan)
    return plan


def _plain(value: PlannedJob | Retries | Service) -> dict[str, object]:
    result: dict[str, object] = {}
    defaults: dict[str, object] = {"retries": Retries(), "cell": {}, "env": {}}
    for item in fields(value):
        content = getattr(value, item.name)
        if content == defaults.get(item.name, item.default):
            continue
        if isinstance(content, Mapping):
            content = dict(content)
        elif isinstance(content, Retries):
            content = _plain(content)
        elif isinstance(content, tuple):
            content = [_plain(part) if isinstance(part, Service) else part for part in content]
        result[item.name] = content
    return result


def _hold_together(plan: Plan) -> None:
    """Raise unless names are unique, references are valid, and no job waits for itself."""
    jobs = {job.name: job for job in plan.jobs}
    for what, names in (("stages", plan.stages), ("jobs", [job.name for job in plan.jobs])):
        twice = next((name for name in names if list(names).count(name) > 1), None)
        if twice is not None:
            raise WireError(f"plan.{what}: {twice!r} occurs twice")
    for stage in plan.stage_timeouts:
        if stage not in plan.stages:
            raise WireError(f"plan.stage_timeouts: unknown stage {stage!r}")
    for job in plan.jobs:
        where = f"plan.jobs[{job.name!r}]"
        if job.stage not in plan.stages:
            raise WireError(f"{where}.stage: unknown stage {job.stage!r}")
        unknown = next((name for name in job.needs if name not in jobs), None)
        if unknown is not None:
            raise WireError(f"{where}.needs: unknown job {unknown!r}")
        if not set(job.artifacts_from) <= set(job.needs):
            raise WireError(f"{where}.artifacts_from: must be among its needs")
        left_out = next((name for name in job.needs if jobs[name].skipped and not job.skipped), None)
        if left_out is not None:
            raise WireError(f"{where}.needs: {left_out!r} is left out of the run, so it must be, too")
    cycle = find_cycle({job.name: job.needs for job in plan.jobs})
    if cycle:
        raise WireError(f"plan.jobs: circular dependency: {' -> '.join(cycle)}")
