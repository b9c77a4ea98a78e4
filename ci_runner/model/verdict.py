"""From what happened to a verdict: the one table of docs/reference/wire.md as a pure function.

The exit code decides, events explain. Nothing here knows an engine or a database.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_remote_ci.wire.protocol import Status

#: Words for a job whose container vanished; clients and tests rely on them.
CONTAINER_LOST = "container lost"


@dataclass(frozen=True)
class Verdict:
    """How a job ends; written once."""

    status: Status
    success: bool | None
    exit_code: int | None = None
    reason: str | None = None

    def complete_fields(self) -> dict[str, Any]:
        """The fields of the `complete` event beside `success`, which is false where there is no verdict."""
        fields: dict[str, Any] = {"status": self.status, "exit_code": self.exit_code, "reason": self.reason}
        if self.status == "cancelled":
            fields["cancelled"] = True
        return fields


def ran(exit_code: int, reason: str | None = None) -> Verdict:
    """The command ran to its end with `exit_code`."""
    return Verdict("completed", exit_code == 0, exit_code, reason)


def failed(reason: str, *, timed_out: bool = False) -> Verdict:
    """The runner could give no verdict; a timeout counts as a failure of the tests (success is False)."""
    return Verdict("failed", False if timed_out else None, None, first_line(reason))


def cancelled(by: str) -> Verdict:
    """Somebody asked for the end."""
    return Verdict("cancelled", None, None, f"cancelled by {by}")


def first_line(text: str, limit: int = 500) -> str:
    """The first line of `text` that says something, bounded: what fits a reason."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "unknown")
    return line if len(line) <= limit else line[: limit - 1] + "…"
