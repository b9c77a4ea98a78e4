"""Pass pytest's arguments from the command line to the pytest jobs of a run. Works on text only, like `arguments`.

They select among the tests that a job would run anyway: the job's own ``-k`` and ``-m`` still apply.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from pytest_remote_ci import options
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.job.boot import NONE_IS_FINE, ONLY_IF_KNOWN
from pytest_remote_ci.session import argv
from pytest_remote_ci.session.arguments import Place
from pytest_remote_ci.session.argv import TakesValue, words
from pytest_remote_ci.wire.answers import Plan, PlannedJob

#: Options with an expression as value, of which the last one counts.
_EXPRESSIONS: Final = ("-k", "-m")
#: Options that select tests.
_CHOOSING: Final = options.names(lambda option: option.selects)


def refuse(given: Sequence[str], takes_value: TakesValue) -> None:
    """Raise `ConfigError` for options that a run of a pipeline does not support."""
    for name in sorted(argv.names(given, takes_value)):
        found = options.BY_NAME.get(name)
        if found is not None and found.refused_in_run:
            raise ConfigError(f"{name} cannot be used with --remote-ci-pipeline: {found.refused_in_run}")


def appended(
    plan: Plan,
    given: Sequence[str],
    place: Place,
    takes_value: TakesValue,
    forward: Callable[[Sequence[str], Place], list[str]],
) -> Plan:
    """Return the plan with these arguments appended to those of its pytest jobs.

    `forward` is `arguments.forward` of this session. Raises `ConfigError` if a job's arguments exclude them.
    """
    chosen = _choice(given, takes_value)
    jobs = list(plan.jobs)
    mine = [job for job in jobs if job.is_pytest and not job.skipped]
    if chosen and not mine:
        raise ConfigError(f"pipeline {plan.pipeline!r} has no pytest job, so {chosen[0]} selects nothing")
    paths = [text for text in chosen if text not in _CHOOSING]
    if paths:
        _refuse_other_paths(mine, paths[0], takes_value)
    absolute = list(_absolute(given, place, takes_value))
    for index, job in enumerate(jobs):
        if job.is_pytest:
            there = place_of(job, place.root)
            more = _joined(job.args, forward(absolute, there), takes_value)
            fine = [ONLY_IF_KNOWN + shlex.quote(NONE_IS_FINE)] if chosen else []
            jobs[index] = job.with_args([*job.args, *fine, *more])
    return plan.with_jobs(jobs)


def place_of(job: PlannedJob, root: Path) -> Place:
    """Return where a job of a plan would run in the local project `root`."""
    return Place(root, root / job.working_dir)


def _choice(given: Sequence[str], takes_value: TakesValue) -> list[str]:
    """Return the options, paths and node ids that select tests."""
    found = []
    for word in words(given, takes_value):
        if word.option in _CHOOSING:
            found.append(str(word.option))
        elif word.is_path:
            found.append(word.text)
    return found


def _refuse_other_paths(jobs: Sequence[PlannedJob], given: str, takes_value: TakesValue) -> None:
    """Raise `ConfigError` if a job names paths itself: pytest would run the tests of all paths, so more tests."""
    for job in jobs:
        for word in words(job.args, takes_value):
            if word.is_path:
                raise ConfigError(
                    f"{given}: job {job.name!r} has its own tests ({word.text}), and a path would add to them; "
                    "select with -k or -m"
                )


def _absolute(given: Sequence[str], place: Place, takes_value: TakesValue) -> Iterator[str]:
    """Make paths that exist locally absolute, because jobs can run in other folders."""
    for word in words(given, takes_value):
        path, colons, rest = word.text.partition("::")
        if word.is_path and os.path.lexists(place.cwd / path):
            yield os.path.normpath(place.cwd / path) + colons + rest
        else:
            yield from word.texts


def _joined(own: Sequence[str], more: Sequence[str], takes_value: TakesValue) -> list[str]:
    """Return `more`; its expressions are combined with those of `own`, so that they select among those tests."""
    result = list(more)
    for option in _EXPRESSIONS:
        first, second = (_last(args, option, takes_value) for args in (own, more))
        if first and second:
            end = result.index("--") if "--" in result else len(result)
            result[end:end] = [option, f"({first}) and ({second})"]
    return result


def _last(args: Sequence[str], option: str, takes_value: TakesValue) -> str | None:
    values = [word.value for word in words(args, takes_value) if word.option == option]
    return values[-1] if values else None
