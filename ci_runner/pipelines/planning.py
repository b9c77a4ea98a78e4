"""Turn a valid definition into a plan: expand matrices, turn stages into needs, mark jobs that are left out.

All decisions are made here, once, by pure functions of the definition and of the selection for the run (`Choice`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

from ci_runner.errors import InvalidSubmission
from ci_runner.pipelines.definition import Definition, JobDefinition, When
from ci_runner.pipelines.graph import closure
from ci_runner.pipelines.matrix import cells, filled, name_of
from ci_runner.pipelines.parsing.values import nearest
from ci_runner.pipelines.plan import Plan, PlannedJob
from pytest_remote_ci.wire import limits
from pytest_remote_ci.wire.globs import Globs

#: Changed paths that are compared with each job's patterns; more count as unknown: a request must not take minutes.
_MOST_CHANGED: Final = 10_000


@dataclass(frozen=True)
class Choice:
    """The selection for one run."""

    #: Only the jobs of these stages, and the needs that they name; empty: all.
    stages: tuple[str, ...] = ()
    #: Only these jobs (or cells), and the needs that they name, ignoring `when`; empty: all.
    jobs: tuple[str, ...] = ()
    #: Changed paths, relative to the project; None, or very many: unknown, so they exclude no job.
    changed: tuple[str, ...] | None = None
    #: The tag of the run.
    tag: str | None = None
    #: Overrides the definition's value.
    keep_going: bool | None = None


def make_plan(definition: Definition, choice: Choice | None = None) -> Plan:
    """Return the plan of one run; `definition` must have no errors.

    Raises `InvalidSubmission` for unknown stages and jobs.
    """
    choice = choice or Choice()
    drafts = _drafts(definition)
    chosen = _chosen(definition, drafts, choice)
    left_out = _left_out(definition, drafts, choice)
    stages = [stage.name for stage in definition.stages]
    going = {name for name in chosen if name not in left_out}
    by_stage = {stage: [draft.name for draft in drafts if draft.stage == stage] for stage in stages}
    jobs = []
    for draft in drafts:
        if draft.name not in chosen:
            continue
        needs = tuple(name for name in draft.needs if name in chosen)
        before = _stage_before(stages, by_stage, draft.stage, going)
        every = tuple(dict.fromkeys((*needs, *before)))
        jobs.append(replace(draft, needs=every, artifacts_from=needs, skipped=left_out.get(draft.name)))
    keep_going = definition.keep_going if choice.keep_going is None else choice.keep_going
    return Plan(definition.name, tuple(stages), tuple(jobs), keep_going, dict(definition.stage_timeouts))


def _stage_before(
    stages: list[str], by_stage: Mapping[str, list[str]], stage: str, going: set[str]
) -> tuple[str, ...]:
    """Return the jobs taking part in the nearest earlier stage that has any; they wait for all before them."""
    for earlier in reversed(stages[: stages.index(stage)]):
        found = tuple(name for name in by_stage[earlier] if name in going)
        if found:
            return found
    return ()


def _drafts(definition: Definition) -> list[PlannedJob]:
    """Return all cells of all jobs, with the needs that the definition names."""
    names = {job.name: [name_of(job.name, cell) for cell in cells(job.matrix)] for job in definition.jobs}
    return [_draft(filled(job, cell), cell, names) for job in definition.jobs for cell in cells(job.matrix)]


def _draft(job: JobDefinition, cell: Mapping[str, str], names: Mapping[str, list[str]]) -> PlannedJob:
    needs = (name for need in job.needs for name in names.get(need.name, [need.name]))
    return PlannedJob(
        name=name_of(job.name, cell),
        definition=job.name,
        stage=job.stage.name,
        cell=dict(cell),
        needs=tuple(dict.fromkeys(needs)),
        image=job.image,
        python=job.python,
        packages=job.packages,
        script=job.script,
        args=job.args,
        env=dict(job.env),
        secrets=job.secrets,
        working_dir=_plain(job.working_dir),
        allow_failure=job.allow_failure,
        retries=job.retries,
        timeout=job.timeout,
        artifacts=job.artifacts.paths,
        artifacts_when=job.artifacts.when,
        artifacts_days=job.artifacts.days,
        services=job.services,
        cpus=job.cpus,
        memory=job.memory,
        **{name: getattr(job, name) for name in limits.NAMES},
    )


def _plain(path: str) -> str:
    return "/".join(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))


def _chosen(definition: Definition, drafts: Iterable[PlannedJob], choice: Choice) -> set[str]:
    """Return the names of the selected jobs, and of the needs that they name."""
    drafts = list(drafts)
    if not choice.stages and not choice.jobs:
        return {draft.name for draft in drafts}
    stages = [stage.name for stage in definition.stages]
    for stage in choice.stages:
        if stage not in stages:
            raise InvalidSubmission(
                f"no stage {stage!r} in pipeline {definition.name!r}{nearest(stage, stages)}"
            )
    names = list(dict.fromkeys(draft.definition for draft in drafts))
    for job in choice.jobs:
        if job not in names and job not in {draft.name for draft in drafts}:
            raise InvalidSubmission(f"no job {job!r} in pipeline {definition.name!r}{nearest(job, names)}")
    wanted = [draft for draft in drafts if not choice.stages or draft.stage in choice.stages]
    if choice.jobs:
        asked = [draft for draft in wanted if {draft.name, draft.definition} & set(choice.jobs)]
        missing = [
            job for job in choice.jobs if not any(job in (draft.name, draft.definition) for draft in asked)
        ]
        if missing:
            raise InvalidSubmission(
                f"job {missing[0]!r} is not in stage {' or '.join(map(repr, choice.stages))}"
            )
        wanted = asked
    return closure((draft.name for draft in wanted), {draft.name: draft.needs for draft in drafts})


def _left_out(definition: Definition, drafts: list[PlannedJob], choice: Choice) -> dict[str, str]:
    """Return job → why it is left out: by its own `when`, or because a need that it names is."""
    if choice.jobs:
        return {}  # jobs selected by name always take part
    whens = {job.name: job.when for job in definition.jobs}
    found: dict[str, str] = {}
    users: dict[str, list[str]] = {}
    for draft in drafts:
        for need in draft.needs:
            users.setdefault(need, []).append(draft.name)
        reason = why_left_out(whens[draft.definition], choice.changed, choice.tag)
        if reason is not None:
            found[draft.name] = reason
    waiting = list(found)
    while waiting:
        name = waiting.pop()
        for user in users.get(name, ()):
            if user not in found:
                found[user] = f"needs {name!r}, which is left out"
                waiting.append(user)
    return found


def why_left_out(when: When, changed: tuple[str, ...] | None, tag: str | None) -> str | None:
    """Return why a job with this `when` is left out of a run; None if it takes part."""
    if not when.ever:
        return "'when' always leaves it out"
    if when.tags is not None and (tag is None or not any(fnmatchcase(tag, pattern) for pattern in when.tags)):
        what = "the run is for no tag" if tag is None else f"tag {tag!r} does not match"
        return f"{what} ({', '.join(when.tags)})"
    if when.changed is None or changed is None or len(changed) > _MOST_CHANGED:
        return None
    if not any(map(Globs(when.changed).match, changed)):
        return f"nothing changed that matches {', '.join(when.changed)}"
    return None
