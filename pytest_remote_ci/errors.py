"""Errors of the client, one family per exit code.

The text of every error is one line with the next step for the user; `exit_code` is the exit code of the process (see
`pytest_remote_ci.exit_codes`).
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import Final

from pytest_remote_ci import exit_codes
from pytest_remote_ci.wire.control_characters import escaped_lines

#: Free bytes below which a disk counts as full.
_FULL: Final = 64 << 10


class ClientError(Exception):
    """The run cannot continue; the text gives the reason and the next step."""

    exit_code = exit_codes.NO_VERDICT

    def __str__(self) -> str:
        """Return the text, with control characters from the runner or the project escaped."""
        return escaped_lines(super().__str__())


def describe_os_error(error: OSError) -> str:
    """Return one line about an error of the local system: the file, what happened, and what to do if known."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    place = error.filename or (_full_folder() if is_full else None)
    where = f"{place}: " if place else ""
    what = error.strerror or type(error).__name__
    advice = "; free some space on that disk" if is_full else ""
    return escaped_lines(f"{where}{what}{advice}")


def _full_folder() -> str | None:
    """Return the folder on a full disk, of those that we write to; None if none of them is full."""
    import shutil
    import tempfile

    for find in (Path.home, lambda: Path(tempfile.gettempdir()), Path.cwd):
        with contextlib.suppress(OSError, RuntimeError):  # there is no home, or no folder to write to
            if shutil.disk_usage(folder := find()).free < _FULL:
                return str(folder)
    return None


class ConfigError(ClientError):
    """The configuration is wrong; the text names the key, the file and the nearest valid key."""

    exit_code = exit_codes.USAGE_ERROR


class WorkspaceError(ClientError):
    """The working tree cannot be sent as it is; the text names the file and how to allow it or leave it out."""

    exit_code = exit_codes.USAGE_ERROR


class NothingSelected(ClientError):
    """No test is selected, which is known before anything is sent. The exit code is pytest's for this."""

    exit_code = exit_codes.NO_TESTS


class WorkspaceChanged(WorkspaceError):
    """A file changed after it was inspected and before it was packed. Collecting again helps."""


class RunnerUnreachable(ClientError):
    """No runner answers at the configured address."""

    exit_code = exit_codes.UNREACHABLE


class RunnerRefused(ClientError):
    """The runner refused the key (401, 403)."""

    exit_code = exit_codes.REFUSED


class SubmissionRefused(ClientError):
    """The runner refused the submission (409, 413, 422, 429, 507); the text is its reason."""

    #: The HTTP status, and the seconds after which a 429 may be retried.
    status = 422
    retry_after = 0.0


class StillRunning(ClientError):
    """The job has not ended, so it cannot be replayed yet."""

    exit_code = exit_codes.USAGE_ERROR


class NoVerdict(ClientError):
    """The job ended without a verdict; the text is the runner's reason."""


class AmbiguousId(ClientError):
    """Several jobs or runs have an id that begins like this; the text lists them."""

    exit_code = exit_codes.USAGE_ERROR


class JobNotFound(ClientError):
    """The runner has no such job or run. The exit code is that of pytest for a file that does not exist."""

    exit_code = exit_codes.USAGE_ERROR
