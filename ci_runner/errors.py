"""The runner's errors: one tree, three families.

*Yours*: the caller must change something (4xx, one line, what to do next). *Temporary*: retry with backoff and
jitter. *Permanent*: the job ends `failed` with the text as its reason. Errors of SDKs are caught in the module that
imports the SDK, and chained. A failing test is an outcome, not an error.
"""

from __future__ import annotations

from typing import Final

#: Characters of an id or name that a message repeats.
_LONGEST_NAME: Final = 200


class RunnerError(Exception):
    """The base of all errors that the runner raises on purpose."""


class RequestError(RunnerError):
    """The caller must change the request; `status` is the HTTP status, the text is the body's ``detail``."""

    status = 422


class NotAuthenticated(RequestError):
    """No usable credentials (RFC 6750)."""

    status = 401


class AccessDenied(RequestError):
    """The object belongs to another user."""

    status = 403


class NotFound(RequestError):
    """The object does not exist; the text always names it."""

    status = 404

    def __init__(self, what: str, name: object) -> None:
        """`what` is the message, such as "Job not found"; `name` is the id or name that was asked for."""
        text = str(name)
        super().__init__(f"{what}: {text if len(text) <= _LONGEST_NAME else f'{text[:_LONGEST_NAME]}…'}")


class Conflict(RequestError):
    """The object is in a state that does not allow this."""

    status = 409


class TooLarge(RequestError):
    """The body is larger than allowed."""

    status = 413


class InvalidSubmission(RequestError):
    """The archive, manifest or options are refused; the text has the entry or field and the reason."""


class TooManyRequests(RequestError):
    """A limit is exceeded; try again after `retry_after` seconds."""

    status = 429

    def __init__(self, text: str, *, retry_after: float = 5) -> None:
        super().__init__(text)
        self.retry_after = retry_after
        #: Additional headers of the response.
        self.headers: tuple[tuple[str, str], ...] = ()


class TooManyWrongKeys(TooManyRequests):
    """The key is wrong, as were others from the same address; never raised for a valid key."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("Too many wrong keys came from your address", retry_after=retry_after)
        self.headers = (("WWW-Authenticate", 'Bearer error="invalid_token"'),)


class TemporaryError(RunnerError):
    """The same call may succeed later; nothing was changed."""

    def __init__(self, text: str, *, retry_after: float = 1.0) -> None:
        super().__init__(text)
        #: Minimum seconds to wait.
        self.retry_after = retry_after


class DatabaseBusy(TemporaryError):
    """Another process has held the database's lock for too long."""


class EngineUnavailable(TemporaryError):
    """The engine does not respond, or not in time."""


class StorageFull(TemporaryError):
    """The disk reserve is reached; nothing was stored."""


class PermanentError(RunnerError):
    """Trying again cannot help; the text is the job's reason, written for its user."""


class ImageUnavailable(PermanentError):
    """The base image is missing and cannot be obtained."""


class EnvironmentFailed(PermanentError):
    """The dependencies or the project could not be installed; the output is in the job's log."""


class LeaseLost(RunnerError):
    """Another controller holds the lease: this one must stop writing and end."""


class SettingsError(RunnerError):
    """A setting is unknown or has a wrong value; the text has its name, its origin and the allowed values."""
