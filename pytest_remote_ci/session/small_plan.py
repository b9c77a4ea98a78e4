"""Plan a plain session that needs more than one job, as a run with one definition.

A job for each Python, and retries: both are what pipelines have, so the runner schedules them and the session is played
like that of a pipeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_remote_ci import options
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.session import argv
from pytest_remote_ci.session.argv import TakesValue
from pytest_remote_ci.wire.answers import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_remote_ci.config.config import Config
    from pytest_remote_ci.wire.protocol import SubmitOptions

#: The name of the only stage and definition.
TESTS: Final = "tests"
#: Options that need a session with one job, and no test runs with some of them.
_ALONE: Final = options.names(
    lambda option: option.is_question or (option.refused_in_run and option.obeyed_by != options.HERE)
)


def single_only(given: Sequence[str], takes_value: TakesValue) -> list[str]:
    """Return the options in `given` that only a session with a single job can have."""
    return sorted(argv.names(given, takes_value) & _ALONE)


def make(settings: Config, sent: SubmitOptions) -> Plan | None:
    """Return the plan of a session with these settings; None if a single job without retries is enough.

    `sent` are the options that its jobs share.
    """
    pythons = settings.python
    if len(pythons) < 2 and not settings.retries.count:
        return None
    common: dict[str, object] = {"definition": TESTS, "stage": TESTS}
    if settings.secrets:
        common["secrets"] = list(settings.secrets)
    if settings.retries.count:
        codes = list(settings.retries.exit_codes)
        common["retries"] = {"count": settings.retries.count, **({"exit_codes": codes} if codes else {})}
    jobs: list[dict[str, object]]
    if len(pythons) < 2:
        jobs = [{"name": TESTS, **common}]
    else:
        if sent.image is not None:  # a Python of the plan would replace it
            common["image"] = sent.image
        jobs = [
            {"name": f"py{version}", "cell": {"python": version}, "python": version, **common}
            for version in pythons
        ]
    return Plan(
        {
            "version": 1,
            "pipeline": _name(settings, sent),
            "stages": [TESTS],
            "jobs": jobs,
            "keep_going": True,
        }
    )


def labels(plan: Plan) -> dict[str, str]:
    """Return job's name → label of its node ids; the only job needs none."""
    names = [job.name for job in plan.jobs]
    return {name: "" if len(names) == 1 else name for name in names}


def refuse_text(plan: Plan) -> None:
    """Raise `ConfigError` if the plan cannot be shown as text."""
    if len(plan.jobs) > 1:
        raise ConfigError(
            "several Pythons are shown only by pytest 7 or newer, without --remote-ci-text; choose one with "
            "--remote-ci-python"
        )


def _name(settings: Config, sent: SubmitOptions) -> str:
    found = settings.name or (sent.root or "").replace("\\", "/").rstrip("/").rpartition("/")[2]
    return found[:1000] if found.strip() and found.isprintable() else TESTS
