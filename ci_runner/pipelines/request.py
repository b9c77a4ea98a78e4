"""Parse and check a client's options for a run into one frozen value.

These are the JSON part ``options`` of `POST /runs`. The receiver decides where the plan comes from: the client's own,
or the definition in the submitted project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Final

from msgspec import Meta

from ci_runner.errors import InvalidSubmission
from ci_runner.model import secret_values
from ci_runner.model.decode import decode, words
from ci_runner.model.field_types import Protocol
from ci_runner.pipelines.plan import Plan
from ci_runner.pipelines.run import options_of
from pytest_remote_ci.wire import job_variables
from pytest_remote_ci.wire.protocol import PROTOCOL, SubmitOptions, WireError, parse_json

_NAME: Final = "must be text of 1 to 1000 characters"


def _name_problem(text: str) -> str | None:
    return None if text.strip() else _NAME


_Name = Annotated[str, words(_NAME, check=_name_problem, min_length=1, max_length=1000)]
_Texts = tuple[str, ...]
_Seconds = Annotated[float, words("must be a number of seconds above 0", gt=0, lt=1e9)]
_ABOUT_CHANGED: Final = "changed paths, for jobs with `when`; null: unknown"
_Secrets = Annotated[Mapping[str, str], Meta(description="never given out again")]


@dataclass(frozen=True)
class RunRequest:
    """The parsed part ``options`` of a submission of a run."""

    #: A plan made by the client; None: the definition is in the project.
    plan: Annotated[Plan | None, Meta(description="a plan as `POST /pipelines/check` gives it")] = None
    #: The name of one of the project's pipelines; None: its only one.
    pipeline: Annotated[_Name | None, Meta(description="without a plan: which pipeline of the project")] = (
        None
    )
    #: Only these stages, these jobs, and their needs; for a definition in the project.
    stages: _Texts = ()
    jobs: _Texts = ()
    #: Continue with jobs that do not depend on a failed job.
    keep_going: bool = False
    #: Values of the secrets that jobs name.
    secrets: _Secrets = field(default_factory=dict, repr=False)
    #: Time limit of the whole run in seconds.
    timeout: Annotated[_Seconds | None, Meta(description="seconds for the whole run")] = None
    #: Changed paths, for jobs that depend on them; None: unknown.
    changed: Annotated[_Texts | None, Meta(description=_ABOUT_CHANGED)] = None
    tag: _Name | None = None
    #: Options shared by all jobs: root, dependencies, versions.
    submit: SubmitOptions = field(default_factory=SubmitOptions)
    protocol: Protocol = PROTOCOL

    @classmethod
    def from_json(cls, text: str | bytes) -> RunRequest:
        """Parse; raises `WireError` with the field's name. Unknown keys are refused, as they may change the run."""
        raw = parse_json("options", text)
        if not isinstance(raw, dict):
            raise WireError("options: must be a JSON object")
        if raw.get("protocol", PROTOCOL) != PROTOCOL:
            raise WireError(
                f"options.protocol: this runner speaks version {PROTOCOL}, the client {raw['protocol']}"
            )
        own = ("plan", "secrets", "submit")
        rest = {name: value for name, value in raw.items() if value is not None and name not in own}
        return replace(
            decode("options", rest, cls),
            plan=None if raw.get("plan") is None else Plan.from_dict(raw["plan"]),
            secrets=secret_values.parse("secrets", raw.get("secrets")),
            submit=SubmitOptions.from_client(raw.get("submit") or {}),
        )

    def complete(self, plan: Plan) -> Plan:
        """Return the plan as it will run. Raises `InvalidSubmission` if the request does not fit it."""
        if self.keep_going:
            plan = replace(plan, keep_going=True)
        if not plan.jobs:
            raise InvalidSubmission("plan.jobs: the plan has no jobs")
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


@dataclass(frozen=True)
class RerunRequest:
    """The body of a request to repeat a run: all of it, or only a part."""

    failed: Annotated[bool, Meta(description="only what did not pass, and what depends on it")] = False
    stage: str | None = None
    job: str | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> RerunRequest:
        """Parse; raises `WireError` with the field's name."""
        raw = parse_json("body", text)
        if not isinstance(raw, dict):
            raise WireError("body: must be a JSON object")
        rest = {name: value for name, value in raw.items() if name != "secrets"}
        return replace(decode("body", rest, cls), secrets=secret_values.parse("secrets", raw.get("secrets")))
