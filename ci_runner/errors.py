"""The runner's errors: one tree, three families.

*Yours*: the caller must change something (4xx, one line, what to do next). *Temporary*: try again with backoff
and jitter. *Permanent*: the job ends `failed` with the text as its reason. Errors of SDKs stop in the module that
imports the SDK and are chained. A red test is an outcome, not an error.
"""

from __future__ import annotations


class RunnerError(Exception):
    """Root of everything that the runner raises on purpose."""


class YoursError(RunnerError):
    """The caller's to mend; `status` is the HTTP status and the text is the body's ``detail``."""

    status = 422


class NotAuthenticated(YoursError):
    """No usable credentials (RFC 6750)."""

    status = 401


class AccessDenied(YoursError):
    """The thing belongs to another user."""

    status = 403


class NotFound(YoursError):
    """No such thing."""

    status = 404


class Conflict(YoursError):
    """The thing is no longer, or already, in a state that allows this."""

    status = 409


class TooLarge(YoursError):
    """The body is larger than the runner takes."""

    status = 413


class InvalidSubmission(YoursError):
    """The archive, manifest or options are refused; names the entry or field and why."""


class TooManyRequests(YoursError):
    """Over a limit; try again after `retry_after` seconds."""

    status = 429

    def __init__(self, text: str, *, retry_after: float = 5) -> None:
        super().__init__(text)
        self.retry_after = retry_after
        #: Further headers of the answer.
        self.headers: tuple[tuple[str, str], ...] = ()


class TooManyWrongKeys(TooManyRequests):
    """The key is wrong, and so were others from the same address; no right key is ever answered this."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("Too many wrong keys came from your address", retry_after=retry_after)
        self.headers = (("WWW-Authenticate", 'Bearer error="invalid_token"'),)


class TemporaryError(RunnerError):
    """The same call may succeed later; nothing was decided."""

    def __init__(self, text: str, *, retry_after: float = 1.0) -> None:
        super().__init__(text)
        #: Seconds to wait at least.
        self.retry_after = retry_after


class EngineUnavailable(TemporaryError):
    """The engine does not answer, or not in time."""


class StorageFull(TemporaryError):
    """The disk reserve is reached; nothing was kept."""


class PermanentError(RunnerError):
    """Trying again cannot help; the text is the job's reason, in words for its user."""


class ImageUnavailable(PermanentError):
    """The base image is not there and cannot be had."""


class EnvironmentFailed(PermanentError):
    """The dependencies or the project could not be installed; the output is in the job's log."""


class LeaseLost(RunnerError):
    """Another controller holds the lease: this one must stop writing and end."""


class SettingsError(RunnerError):
    """A setting is unknown or has a wrong value; names it, where it was read and what is allowed."""
