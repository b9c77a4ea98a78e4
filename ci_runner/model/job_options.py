"""`JobOptions`: the options of a job, parsed once from the JSON object in its row.

The object has a submission's options (`SubmitOptions.to_dict`) and a few keys of the runner. It is stored unchanged,
whether or not this version of the runner can read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ci_runner.errors import PermanentError
from pytest_remote_ci.wire.protocol import SubmitOptions, WireError
from pytest_remote_ci.wire.timing import Timing


@dataclass(frozen=True)
class JobOptions:
    """The options of a job; made by `from_dict`."""

    #: The client's options; for a pipeline's job, merged with those in the plan.
    submitted: SubmitOptions = field(default_factory=SubmitOptions)
    #: Shell commands that replace pytest; None: pytest runs.
    script: tuple[str, ...] | None = None
    #: Names of the secrets, its own or its run's, that the job gets as environment variables.
    secrets: tuple[str, ...] = ()
    #: Ids of the jobs with artifacts in its workspace.
    artifacts_from: tuple[str, ...] = ()
    #: Digest of the blob with its files' modification times.
    mtimes: str | None = None
    #: Seconds from the first byte of the submission until its contents were stored.
    upload: float | None = None
    #: What was not there yet when it was submitted, for its timing.
    cold: tuple[str, ...] = ()
    #: Why the stored object cannot be read, on one line; then all of the above have their defaults.
    problem: str | None = None
    #: The stored object, not to be changed.
    stored: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, raw: object) -> JobOptions:
        """Parse a row's object. Never raises, so that one row never hides the others: see `problem`."""
        if not isinstance(raw, Mapping):
            return cls(problem="options: must be a JSON object")
        try:
            mtimes = raw.get("mtimes")
            if mtimes is not None and not isinstance(mtimes, str):
                raise WireError("options.mtimes: must be text")
            return cls(
                submitted=SubmitOptions.from_dict(dict(raw)),
                script=_texts(raw, "script"),
                secrets=_texts(raw, "secrets") or (),
                artifacts_from=_texts(raw, "artifacts_from") or (),
                mtimes=mtimes or None,
                upload=_seconds(raw.get("upload")),
                cold=_texts(raw, "cold") or (),
                stored=raw,
            )
        except (ValueError, TypeError, ArithmeticError) as error:
            return cls(problem=str(error), stored=raw)

    def usable(self) -> SubmitOptions:
        """Return the client's options; raises `PermanentError` if the stored ones cannot be read."""
        if self.problem is not None:
            raise PermanentError(
                f"this runner cannot read the job's options: {self.problem}; submit it again"
            )
        return self.submitted

    @property
    def timing(self) -> Timing:
        """Return the timing of the phases up to the submission's answer."""
        received = {} if self.upload is None else {"upload": self.upload}
        return Timing({**self.submitted.timing, **received}, self.cold)

    @property
    def wants_files(self) -> bool:
        """Return whether files of the job may have to be stored.

        Also true if that is unknown, so that the job's log gives the reason. Clients that name their project's folder
        are told what the job did to its files.
        """
        submitted = self.submitted
        return (
            bool(submitted.artifacts or submitted.reports) or self.wants_changes or self.problem is not None
        )

    @property
    def wants_changes(self) -> bool:
        """Return whether to record what the job does to files of the project."""
        return self.submitted.root is not None

    def with_env(self, variables: Mapping[str, str]) -> JobOptions:
        """Return a copy with more environment variables, checked like those of a submission."""
        if self.problem is not None:
            return self
        return replace(
            JobOptions.from_dict({**self.stored, "env": {**self.submitted.env, **variables}}),
            stored=self.stored,
        )


def _seconds(value: object) -> float | None:
    return value if isinstance(value, float) else None


def _texts(raw: Mapping[str, object], name: str) -> tuple[str, ...] | None:
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise WireError(f"options.{name}: must be a list of strings")
    return tuple(value)
