"""Parse and check a client's options for a run into one frozen value.

These are the JSON part ``options`` of `POST /runs`. The receiver decides where the plan comes from: the client's own,
or the definition in the submitted project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ci_runner.errors import InvalidSubmission
from ci_runner.pipelines.plan import Plan
from ci_runner.pipelines.run import options_of
from pytest_remote_ci.wire import checks, job_variables
from pytest_remote_ci.wire.protocol import PROTOCOL, SubmitOptions, WireError, parse_json

_KNOWN: Final = frozenset(
    {
        "protocol",
        "plan",
        "pipeline",
        "stage",
        "job",
        "keep_going",
        "secrets",
        "timeout",
        "changed",
        "tag",
        "submit",
    }
)
#: Maximum bytes of one secret's value.
_LONGEST_SECRET: Final = 65536
#: Limited because all output of a job is searched for each secret, in many forms.
_MOST_SECRETS: Final = 100
_ALL_SECRETS: Final = 1 << 18


@dataclass(frozen=True)
class RunRequest:
    """The parsed part ``options`` of a submission of a run."""

    #: A plan made by the client; None: the definition is in the project.
    plan: Plan | None = None
    #: The name of one of the project's pipelines; None: its only one.
    pipeline: str | None = None
    #: Only these stages, these jobs, and their needs; for a definition in the project.
    stages: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    #: Continue with jobs that do not depend on a failed job.
    keep_going: bool = False
    #: Values of the secrets that jobs name.
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Time limit of the whole run in seconds.
    timeout: float | None = None
    #: Changed paths, for jobs that depend on them; None: unknown.
    changed: tuple[str, ...] | None = None
    tag: str | None = None
    #: Options shared by all jobs: root, dependencies, versions.
    submit: SubmitOptions = field(default_factory=SubmitOptions)

    @classmethod
    def from_json(cls, text: str | bytes) -> RunRequest:
        """Parse; raises `WireError` with the field's name. Unknown keys are refused, as they may change the run."""
        raw = parse_json("options", text)
        if not isinstance(raw, dict):
            raise WireError("options: must be a JSON object")
        unknown = sorted(raw.keys() - _KNOWN)
        if unknown:
            raise WireError(f"options.{unknown[0]}: is unknown to this runner")
        if raw.get("protocol", PROTOCOL) != PROTOCOL:
            raise WireError(
                f"options.protocol: this runner speaks version {PROTOCOL}, the client {raw['protocol']}"
            )
        return cls(
            plan=None if raw.get("plan") is None else Plan.from_dict(raw["plan"]),
            pipeline=_optional_text("pipeline", raw),
            stages=_texts("stages", raw) or (),
            jobs=_texts("jobs", raw) or (),
            keep_going=_flag("keep_going", raw),
            secrets=_secrets(raw.get("secrets")),
            timeout=_seconds(raw.get("timeout")),
            changed=_texts("changed", raw),
            tag=_optional_text("tag", raw),
            submit=SubmitOptions.from_client(raw.get("submit") or {}),
        )

    def complete(self, plan: Plan) -> Plan:
        """Return the plan as it will run. Raises `InvalidSubmission` if the request does not fit it."""
        if self.keep_going:
            plan = replace(plan, keep_going=True)
        if not plan.jobs:
            raise InvalidSubmission("plan.jobs: there is no job to run")
        for job in plan.jobs:
            options_of(self.submit.to_dict(), job)
        require_passable(plan)
        require_secrets(plan, self.secrets)
        return plan

    def needed_secrets(self, plan: Plan) -> dict[str, str]:
        """Return only the values that jobs of the plan name."""
        return {name: value for name, value in self.secrets.items() if name in secrets_of(plan)}


def secrets_of(plan: Plan) -> set[str]:
    """Return the names of all secrets of the jobs that take part."""
    return {name for job in plan.jobs if job.skipped is None for name in job.secrets}


def require_passable(plan: Plan) -> None:
    """Raise `WireError` with the name of the first variable that must not be passed to a job."""
    for job in plan.jobs:
        job_variables.check(f"env of job {job.name!r}", job.env)
        job_variables.check(f"secrets of job {job.name!r}", job.secrets)


def require_secrets(plan: Plan, given: Mapping[str, str]) -> None:
    """Raise `InvalidSubmission` with the names of secrets that were not sent."""
    missing = sorted(secrets_of(plan) - given.keys())
    if missing:
        raise InvalidSubmission(
            f"secrets: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not given; "
            "set them in the environment of the command that submits the run"
        )


def parse_secrets(value: Any) -> dict[str, str]:
    """Parse an object of secrets, as in `RunRequest`; raises `WireError`, which never contains a value."""
    return _secrets(value)


def _optional_text(name: str, raw: Mapping[str, Any]) -> str | None:
    value = raw.get(name)
    if value is not None and (not isinstance(value, str) or not value.strip() or len(value) > 1000):
        raise WireError(f"options.{name}: must be text of 1 to 1000 characters")
    return value


def _flag(name: str, raw: Mapping[str, Any]) -> bool:
    value = raw.get(name, False)
    if not isinstance(value, bool):
        raise WireError(f"options.{name}: must be true or false")
    return value


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise WireError("options.timeout: must be a number of seconds above 0")
    return float(value)


def _texts(name: str, raw: Mapping[str, Any]) -> tuple[str, ...] | None:
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise WireError(f"options.{name}: must be a list of texts")
    return tuple(value)


def _secrets(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise WireError("secrets: must be an object of texts")
    for name, content in value.items():
        checks.as_long_text(f"secrets.{name[:100]}", content)
        if len(content) > _LONGEST_SECRET:
            raise WireError(f"secrets.{name[:100]}: must be at most {_LONGEST_SECRET} characters long")
    if len(value) > _MOST_SECRETS or sum(map(len, value.values())) > _ALL_SECRETS:
        raise WireError(f"secrets: at most {_MOST_SECRETS}, together at most {_ALL_SECRETS} characters long")
    return dict(value)
