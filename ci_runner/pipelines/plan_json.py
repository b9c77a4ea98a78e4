"""Convert plans to and from JSON, for the store and for clients; parsing trusts no input.

Unknown fields are refused, not ignored: a field that an older runner ignores might be the one that keeps a job from
running.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final, TypeVar

from ci_runner.pipelines.graph import find_cycle
from ci_runner.pipelines.plan import Plan, PlannedJob, Retries, Service
from pytest_remote_ci.wire import globs
from pytest_remote_ci.wire.checks import MAX_SERVICES
from pytest_remote_ci.wire.protocol import WireError

#: Increased when the meaning of a stored plan changes.
VERSION: Final = 1
#: Maximum number of jobs in one run.
MOST_JOBS: Final = 1000
#: Maximum length of a job's name, with its cell.
LONGEST_NAME: Final = 1000

_Made = TypeVar("_Made", PlannedJob, Retries, Service)
_Check = Callable[[str, Any], Any]

_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_HOST_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_PYTHON: Final = re.compile(r"3\.\d{1,2}\Z")
_LONGEST: Final = 131_071  # MAX_ARG_STRLEN of Linux


def write(plan: Plan) -> dict[str, Any]:
    """See `Plan.to_dict`."""
    found = {
        "version": VERSION,
        "pipeline": plan.pipeline,
        "stages": list(plan.stages),
        "jobs": [_plain(job) for job in plan.jobs],
        "keep_going": plan.keep_going,
    }
    if plan.stage_timeouts:  # older runners accept plans without the field
        found["stage_timeouts"] = dict(plan.stage_timeouts)
    return found


def read(raw: Any) -> Plan:
    """See `Plan.from_dict`."""
    if not isinstance(raw, dict):
        raise WireError("plan: must be a JSON object")
    if raw.get("version") != VERSION:
        raise WireError(f"plan.version: must be {VERSION}, not {raw.get('version')!r}")
    unknown = sorted(
        str(name)
        for name in raw.keys() - {"version", "pipeline", "stages", "jobs", "keep_going", "stage_timeouts"}
    )
    if unknown:
        raise WireError(f"plan.{unknown[0]}: is unknown to this runner")
    jobs = raw.get("jobs")
    if not isinstance(jobs, list) or len(jobs) > MOST_JOBS:
        raise WireError(f"plan.jobs: must be a list of at most {MOST_JOBS} jobs")
    plan = Plan(
        pipeline=_name("plan.pipeline", raw.get("pipeline")),
        stages=_names("plan.stages", raw.get("stages")),
        jobs=tuple(_make(PlannedJob, _JOB, f"plan.jobs[{index}]", job) for index, job in enumerate(jobs)),
        keep_going=_flag("plan.keep_going", raw.get("keep_going", False)),
        stage_timeouts=_timeouts("plan.stage_timeouts", raw.get("stage_timeouts", {})),
    )
    _hold_together(plan)
    return plan


def _plain(value: PlannedJob | Retries | Service) -> dict[str, Any]:
    result: dict[str, Any] = {}
    defaults = {"retries": Retries(), "cell": {}, "env": {}}
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
            raise WireError(f"plan.{what}: {twice!r} is there twice")
    for stage in plan.stage_timeouts:
        if stage not in plan.stages:
            raise WireError(f"plan.stage_timeouts: there is no stage {stage!r}")
    for job in plan.jobs:
        where = f"plan.jobs[{job.name!r}]"
        if job.stage not in plan.stages:
            raise WireError(f"{where}.stage: there is no stage {job.stage!r}")
        unknown = next((name for name in job.needs if name not in jobs), None)
        if unknown is not None:
            raise WireError(f"{where}.needs: there is no job {unknown!r}")
        if not set(job.artifacts_from) <= set(job.needs):
            raise WireError(f"{where}.artifacts_from: must be among its needs")
        left_out = next((name for name in job.needs if jobs[name].skipped and not job.skipped), None)
        if left_out is not None:
            raise WireError(f"{where}.needs: {left_out!r} is left out of the run, so it must be, too")
    cycle = find_cycle({job.name: job.needs for job in plan.jobs})
    if cycle:
        raise WireError(f"plan.jobs: circular dependency: {' -> '.join(cycle)}")


def _make(kind: type[_Made], checks: Mapping[str, _Check], where: str, raw: Any) -> _Made:
    if not isinstance(raw, dict):
        raise WireError(f"{where}: must be an object")
    for name in raw:
        if name not in checks:
            raise WireError(f"{where}.{name}: is unknown to this runner")
    values = {name: checks[name](f"{where}.{name}", value) for name, value in raw.items()}
    try:
        return kind(**values)
    except TypeError:
        missing = [
            name for name in ("name", "definition", "stage", "image") if name in checks and name not in raw
        ]
        raise WireError(f"{where}.{missing[0]}: is missing") from None


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or "\0" in value or len(value) > _LONGEST:
        raise WireError(f"{where}: must be text without NUL characters, at most {_LONGEST} long")
    return value


def _name(where: str, value: Any) -> str:
    if (
        not isinstance(value, str)
        or not value.strip()
        or not value.isprintable()
        or len(value) > LONGEST_NAME
    ):
        raise WireError(f"{where}: must be a name of 1 to {LONGEST_NAME} printable characters")
    return value


def _texts(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > 10_000:
        raise WireError(f"{where}: must be a list of texts")
    return tuple(_text(f"{where}[{index}]", item) for index, item in enumerate(value))


def _names(where: str, value: Any) -> tuple[str, ...]:
    return tuple(_name(f"{where}[{index}]", item) for index, item in enumerate(_texts(where, value)))


def _table(where: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise WireError(f"{where}: must be an object of texts")
    return {_name(where, name): _text(f"{where}.{name}", content) for name, content in value.items()}


def _environment(where: str, value: Any) -> dict[str, str]:
    table = _table(where, value)
    _variables(where, list(table))
    return table


def _variables(where: str, value: Any) -> tuple[str, ...]:
    names = _texts(where, value)
    for name in names:
        if not _ENV_NAME.match(name):
            raise WireError(f"{where}: {name!r} is no name of an environment variable")
    return names


def _relative(where: str, value: Any) -> str:
    text = _text(where, value)
    if text.startswith(("/", "\\")) or ".." in text.replace("\\", "/").split("/"):
        raise WireError(f"{where}: {text!r} must be a path below the project, without '..'")
    return text


def _patterns(where: str, value: Any) -> tuple[str, ...]:
    patterns = _texts(where, value)
    for index, pattern in enumerate(patterns):
        wrong = globs.problem(pattern)
        if wrong is not None:
            raise WireError(f"{where}[{index}]: {pattern!r} {wrong}")
    return patterns


def _flag(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise WireError(f"{where}: must be true or false")
    return value


def _positive(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise WireError(f"{where}: must be a number above 0")
    return float(value)


def _timeouts(where: str, value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise WireError(f"{where}: must be an object of numbers")
    return {_name(where, stage): _positive(f"{where}.{stage}", each) for stage, each in value.items()}


def _integer(low: int, high: int) -> _Check:
    def check(where: str, value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise WireError(f"{where}: must be an integer from {low} to {high}")
        return value

    return check


def _integers(low: int, high: int) -> _Check:
    def check(where: str, value: Any) -> tuple[int, ...]:
        if not isinstance(value, list) or len(value) > 256:
            raise WireError(f"{where}: must be a list of integers")
        return tuple(_integer(low, high)(f"{where}[{index}]", item) for index, item in enumerate(value))

    return check


def _matching(pattern: re.Pattern[str], words: str) -> _Check:
    def check(where: str, value: Any) -> str:
        if not isinstance(value, str) or not pattern.match(value):
            raise WireError(f"{where}: {value!r} is no {words}")
        return value

    return check


def _when(where: str, value: Any) -> str:
    if value not in ("always", "success", "failure"):
        raise WireError(f"{where}: must be always, success or failure")
    return str(value)


def _optional(check: _Check) -> _Check:
    return lambda where, value: None if value is None else check(where, value)


def _services(where: str, value: Any) -> tuple[Service, ...]:
    if not isinstance(value, list) or len(value) > MAX_SERVICES:
        raise WireError(f"{where}: must be a list of at most {MAX_SERVICES} services")
    made = tuple(_make(Service, _SERVICE, f"{where}[{index}]", item) for index, item in enumerate(value))
    if len({service.name for service in made}) < len(made):
        raise WireError(f"{where}: two services have one name")
    return made


_RETRIES: Final[Mapping[str, _Check]] = {"count": _integer(0, 100), "exit_codes": _integers(1, 255)}
_SERVICE: Final[Mapping[str, _Check]] = {
    "name": _matching(_HOST_NAME, "host name"),
    "image": _name,
    "env": _environment,
    "health": _optional(_text),
    "ports": _integers(1, 65535),
    "command": _texts,
}
_JOB: Final[Mapping[str, _Check]] = {
    "name": _name,
    "definition": _name,
    "stage": _name,
    "cell": _table,
    "needs": _names,
    "artifacts_from": _names,
    "image": _optional(_name),
    "python": _optional(_matching(_PYTHON, "Python version such as '3.12'")),
    "script": _optional(_texts),
    "args": _texts,
    "env": _environment,
    "secrets": _variables,
    "working_dir": _relative,
    "allow_failure": _flag,
    "retries": lambda where, value: _make(Retries, _RETRIES, where, value),
    "timeout": _optional(_positive),
    "artifacts": _patterns,
    "artifacts_when": _when,
    "artifacts_days": _optional(_positive),
    "services": _services,
    "cpus": _optional(_positive),
    "memory": _optional(_integer(1, 1 << 60)),
    "skipped": _optional(_text),
}
