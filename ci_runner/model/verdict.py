"""Verdicts: the table of docs/reference/wire.md as a pure function.

The exit code decides, events explain. Independent of engines and the database.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pytest_remote_ci.wire.protocol import Status

#: The reason for a job if its container vanished; clients and tests rely on it.
CONTAINER_LOST = "container lost"
#: Who cancels the jobs of a user that was deactivated.
DEACTIVATED: Final = "an administrator, who deactivated the user"


@dataclass(frozen=True)
class Verdict:
    """The end of a job; written once."""

    status: Status
    success: bool | None
    exit_code: int | None = None
    reason: str | None = None

    def complete_fields(self) -> dict[str, object]:
        """Return the fields of the `complete` event besides `success`, which is false without a verdict."""
        fields: dict[str, object] = {
            "status": self.status,
            "exit_code": self.exit_code,
            "reason": self.reason,
        }
        if self.status == "cancelled":
            fields["cancelled"] = True
        return fields


def ran(exit_code: int, reason: str | None = None) -> Verdict:
    """Return the verdict of a command that ran to its end with `exit_code`."""
    return Verdict("completed", exit_code == 0, exit_code, reason)


def failed(reason: str, *, timed_out: bool = False) -> Verdict:
    """Return the end of a job without a verdict; a timeout counts as failed tests (success is False)."""
    return Verdict("failed", False if timed_out else None, None, first_line(reason))


def cancelled(by: str) -> Verdict:
    """Return the end of a job that was cancelled."""
    return Verdict("cancelled", None, None, f"cancelled by {by}")


def first_line(text: str, limit: int = 500) -> str:
    """Return the first line of `text` that is not blank, cut to fit a reason."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "unknown")
    return line if len(line) <= limit else line[: limit - 1] + "…"
