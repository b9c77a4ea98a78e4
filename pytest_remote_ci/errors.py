"""What can go wrong on the developer's side, one family per way out.

Every error's text is one line that says what to do next; `exit_code` is what the process ends with
(see `pytest_remote_ci.exit_codes`).
"""

from __future__ import annotations

from pytest_remote_ci import exit_codes
from pytest_remote_ci.wire.control_characters import escaped_lines


class ClientError(Exception):
    """The run cannot go on; the text says why and what to do next."""

    exit_code = exit_codes.NO_VERDICT

    def __str__(self) -> str:
        """The text; whatever a runner or a project has put into it steers no terminal."""
        return escaped_lines(super().__str__())


class ConfigError(ClientError):
    """The configuration is wrong: names the key, the file and the nearest valid key."""

    exit_code = exit_codes.USAGE_ERROR


class WorkspaceError(ClientError):
    """The working tree cannot be sent as it is: names the file and how to allow or leave it out."""

    exit_code = exit_codes.USAGE_ERROR


class WorkspaceChanged(WorkspaceError):
    """A file changed between being looked at and being packed: collecting once more helps."""


class RunnerUnreachable(ClientError):
    """No runner answers at the configured address."""

    exit_code = exit_codes.UNREACHABLE


class RunnerRefused(ClientError):
    """The runner refused the key (401, 403)."""

    exit_code = exit_codes.REFUSED


class SubmissionRefused(ClientError):
    """The runner refused what was sent (409, 413, 422, 429, 507); the text is its reason."""

    #: The HTTP status, and the seconds after which a 429 may be tried again.
    status = 422
    retry_after = 0.0


class StillRunning(ClientError):
    """The job is not over, so there is nothing to tell again yet."""

    exit_code = exit_codes.USAGE_ERROR


class NoVerdict(ClientError):
    """The job ended without a verdict: the runner's reason."""


class JobNotFound(ClientError):
    """The runner knows no such job, as pytest's own usage error for a file that does not exist."""

    exit_code = exit_codes.USAGE_ERROR
