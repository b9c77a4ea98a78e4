"""Decide which results a rerun reuses: a pure choice from the plan and the states of its jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ci_runner.errors import Conflict, InvalidSubmission
from ci_runner.pipelines.plan import Plan
from ci_runner.pipelines.report_status import ExecutionStatus
from ci_runner.pipelines.scheduler import Facts


def reusable(
    plan: Plan,
    facts: Mapping[str, Facts],
    *,
    failed: bool = False,
    stage: str | None = None,
    job: str | None = None,
) -> dict[str, str]:
    """Return planned name → id of the job with the result to reuse; empty for a plain rerun.

    `failed`: jobs that did not pass, and all jobs that depend on them, run again; allowed failures are reused.
    `stage`, `job` (a planned job, or all cells of one): it, all jobs that depend on it, and jobs that did not pass
    run again. Raises `Conflict` if no job failed, and `InvalidSubmission` for an unknown stage or job.
    """
    if not failed and stage is None and job is None:
        return {}
    allowed = {planned.name for planned in plan.jobs if planned.allow_failure}
    passed = {
        name
        for name, found in facts.items()
        if found.word is ExecutionStatus.SUCCESS or (found.word is ExecutionStatus.FAILED and name in allowed)
    }
    skipped = {planned.name for planned in plan.jobs if planned.skipped is not None}
    again = facts.keys() - passed - skipped
    if stage is None and job is None:
        if not again:
            raise Conflict("Nothing failed in this run: there is nothing to run again")
    else:
        chosen = {
            planned.name
            for planned in plan.jobs
            if stage in (None, planned.stage) and job in (None, planned.name, planned.definition)
        }
        if not chosen:
            what = (
                f"stage: the run has no stage {stage!r}"
                if job is None
                else f"job: the run has no job {job!r}"
            )
            raise InvalidSubmission(what)
        again = again | chosen
    again = _with_dependants(plan, again)
    return {
        name: found.job_id
        for name, found in facts.items()
        if name in passed - again and found.job_id is not None
    }


def _with_dependants(plan: Plan, names: Iterable[str]) -> set[str]:
    found = set(names)
    while True:
        more = {job.name for job in plan.jobs if job.name not in found and found & set(job.needs)}
        if not more:
            return found
        found |= more
