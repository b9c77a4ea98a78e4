"""Check a definition as a whole, and report all problems at once.

Found are duplicate names, dangling references, cycles, jobs that can never run, and duplicate cells of matrices.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from ci_runner.pipelines.definition import Definition, JobDefinition
from ci_runner.pipelines.graph import find_cycle
from ci_runner.pipelines.matrix import cells, filled, name_of
from ci_runner.pipelines.parsing.values import nearest
from ci_runner.pipelines.plan import LONGEST_NAME, MOST_JOBS
from ci_runner.pipelines.source.tree import Problems, below
from pytest_remote_ci.wire import globs

#: Maximum number of reported cycles.
_MOST_CYCLES: Final = 20
_PYTHON: Final = re.compile(r"3\.\d{1,2}\Z")


def check(definition: Definition, problems: Problems) -> None:
    """Report all problems of the definition as a whole."""
    _duplicates(definition, problems)
    _stages(definition, problems)
    _matrices(definition, problems)
    _needs(definition, problems)
    _cycles(definition, problems)
    _never(definition, problems)
    for job in definition.jobs:
        if job.script is not None and job.args:
            message = f"'args' of job {job.name!r} are not used: they are pytest's, and the job has a script"
            problems.warn(job.named.place, job.named.path, message)


def _duplicates(definition: Definition, problems: Problems) -> None:
    first: dict[str, JobDefinition] = {}
    for job in definition.jobs:
        before = first.setdefault(job.name, job)
        if before is not job:
            where = f" in stage {job.stage.name!r}" if before.stage.name == job.stage.name else ""
            problems.error(
                job.named.place,
                job.named.path,
                f"Duplicate job name {job.name!r}{where}; first {before.named.position}",
            )


def _stages(definition: Definition, problems: Problems) -> None:
    names = [stage.name for stage in definition.stages]
    for job in definition.jobs:
        if job.stage.name and job.stage.name not in names:
            problems.error(
                job.stage.place,
                job.stage.path,
                f"Job {job.name!r} references non-existent stage {job.stage.name!r}{nearest(job.stage.name, names)}",
            )
    used = {job.stage.name for job in definition.jobs}
    for stage in definition.stages:
        if stage.name not in used:
            problems.warn(stage.place, stage.path, f"stage {stage.name!r} has no jobs")


def _matrices(definition: Definition, problems: Problems) -> None:
    """Report matrices with too many, no or invalid cells, and cells with the name of another job."""
    planned: dict[str, list[str]] = {}
    for job in definition.jobs:
        path = below(job.named.path, "matrix") if job.matrix else job.named.path
        found = cells(job.matrix)
        if not found:
            problems.error(job.named.place, path, f"the matrix of job {job.name!r} excludes all of its cells")
        planned.setdefault(job.name, [name_of(job.name, cell) for cell in found])
        for cell in found:
            image = filled(job, cell).image or ""
            if re.search(r"\{[^}]*\}", image):
                problems.warn(
                    job.named.place,
                    path,
                    f"image {image!r} of {name_of(job.name, cell)!r} uses a name that is not an axis of its matrix",
                )
            for wrong in _impossible(filled(job, cell)):
                problems.error(job.named.place, path, f"{name_of(job.name, cell)}: {wrong}")
    total = sum(len(names) for names in planned.values())
    if total > MOST_JOBS:
        problems.error(
            definition.named.place, definition.named.path, f"{total} jobs; a run has at most {MOST_JOBS}"
        )
    counted = Counter(name for names in planned.values() for name in names)
    for job in definition.jobs:
        twice = next((name for name in planned[job.name] if counted[name] > 1), None)
        if twice is not None:
            path = job.named.path
            problems.error(job.named.place, path, f"{twice!r} is also the name of a cell of a matrix")
        if any(len(name) > LONGEST_NAME for name in planned[job.name]):
            problems.error(
                job.named.place, job.named.path, f"a cell's name is longer than {LONGEST_NAME} characters"
            )


def _impossible(job: JobDefinition) -> Iterator[str]:
    """Yield the problems caused by the values of a cell."""
    if job.python is not None and not _PYTHON.match(job.python):
        yield f"python must be a version such as '3.12', not {job.python!r}"
    if job.image is not None and (not job.image.strip() or len(job.image) > 1000):
        yield "the image cannot be empty"
    for pattern in job.artifacts.paths:
        wrong = globs.problem(pattern)
        if wrong is not None:
            yield f"the pattern {pattern!r} {wrong}"
    folder = job.working_dir
    if folder.startswith(("/", "\\", "~")) or ".." in folder.replace("\\", "/").split("/"):
        yield f"{folder!r} must be a path below the project, without '..'"


def _needs(definition: Definition, problems: Problems) -> None:
    stages = {stage.name: index for index, stage in enumerate(definition.stages)}
    jobs = {job.name: job for job in definition.jobs}
    owners = _owners(definition)
    for job in definition.jobs:
        for need in job.needs:
            target = jobs.get(owners.get(need.name, ""))
            if target is None:
                hint = (
                    ""
                    if problems.are_many
                    else nearest(need.name, [name for name in jobs if name != job.name])
                )
                message = f"Job {job.name!r} depends on non-existent job {need.name!r}{hint}"
            elif target.name == job.name:
                message = f"Job {job.name!r} cannot depend on itself"
            elif stages.get(target.stage.name, -1) > stages.get(job.stage.name, len(stages)):
                why = f"it needs {need.name!r} of the later stage {target.stage.name!r}"
                message = f"Job {job.name!r} can never run: {why}"
            else:
                continue
            problems.error(need.place, need.path, message)


def _edges(definition: Definition) -> dict[str, list[str]]:
    """Return job → the jobs that it names as needs; unknown jobs and itself are left out."""
    owners = _owners(definition)
    found: dict[str, list[str]] = {}
    for job in definition.jobs:
        named = (owners.get(need.name, job.name) for need in job.needs)
        found.setdefault(job.name, [name for name in dict.fromkeys(named) if name != job.name])
    return found


def _owners(definition: Definition) -> dict[str, str]:
    """Return name of a job or of a cell → name of the job."""
    owners = {name_of(job.name, cell): job.name for job in definition.jobs for cell in cells(job.matrix)}
    return owners | {job.name: job.name for job in definition.jobs}


def _cycles(definition: Definition, problems: Problems) -> None:
    """Report each cycle once; its jobs are removed before the next search."""
    left, owners = _edges(definition), _owners(definition)
    jobs = {job.name: job for job in reversed(definition.jobs)}
    for _ in range(_MOST_CYCLES):
        cycle = find_cycle(left)
        if not cycle:
            return
        members = cycle[:-1]
        first = members.index(min(members, key=lambda name: jobs[name].named.place))
        members = members[first:] + members[:first]
        job, following = jobs[members[0]], members[1]
        spot = next((need for need in job.needs if owners.get(need.name) == following), job.named)
        message = f"Circular dependency detected between jobs: {' -> '.join([*members, members[0]])}"
        problems.error(spot.place, spot.path, message)
        left = {name: targets for name, targets in left.items() if name not in cycle}


def _never(definition: Definition, problems: Problems) -> None:
    """Report jobs that need a job that never takes part."""
    users: dict[str, list[str]] = {}
    for name, targets in _edges(definition).items():
        for target in targets:
            users.setdefault(target, []).append(name)
    cause = {job.name: job.name for job in definition.jobs if not job.when.ever}
    never, waiting = set(cause), list(cause)
    while waiting:
        name = waiting.pop()
        for user in users.get(name, ()):
            if user not in cause:
                cause[user] = cause[name]
                waiting.append(user)
    owners = _owners(definition) if never else {}
    for job in definition.jobs:
        for need in job.needs if job.name in cause and job.name not in never else ():
            blocked = cause.get(owners.get(need.name, ""))
            if blocked is not None:
                why = f"it needs {blocked!r}, which 'when' always leaves out"
                problems.error(need.place, need.path, f"Job {job.name!r} can never run: {why}")
