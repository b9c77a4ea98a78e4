"""A client's submission of one job: the JSON part ``options``, its secrets apart from what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ci_runner.model import secret_values
from pytest_remote_ci.wire import checks, job_variables
from pytest_remote_ci.wire.protocol import SubmitOptions, WireError, parse_json


@dataclass(frozen=True)
class JobRequest:
    """The parsed part ``options`` of a submission of a job."""

    options: SubmitOptions
    #: Values of variables that the job gets, and that are stored encrypted and masked in its output.
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> JobRequest:
        """Parse; raises `WireError` with the field's name."""
        raw = parse_json("options", text, surrogates=True)
        if not isinstance(raw, dict):
            raise WireError("options: must be a JSON object")
        secrets = secret_values.parse("options.secrets", raw.get("secrets"))
        checks.as_environment("options.secrets", secrets)
        job_variables.check("options.secrets", secrets)
        return cls(SubmitOptions.from_client(raw), secrets)
