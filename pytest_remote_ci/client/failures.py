"""Messages of a job's failed tests, from the reports among its events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from pytest_remote_ci.wire.records import parts_of

if TYPE_CHECKING:
    from pytest_remote_ci.client.client import Client

#: Events of one request.
_PAGE: Final = 1000
#: Longest message.
_LONGEST: Final = 10_000


def messages(client: Client, job_id: str) -> dict[str, str]:
    """Return node id → message of its first failure. Empty if the session was not recorded, or no more stored."""
    found: dict[str, str] = {}
    for event in _events(client, job_id):
        for part in parts_of(event):
            report = part.get("d")
            if part.get("t") != "report" or not isinstance(report, dict) or report.get("outcome") != "failed":
                continue
            found.setdefault(str(report.get("nodeid")), _message(report.get("longrepr"))[:_LONGEST])
    return found


def _events(client: Client, job_id: str) -> Iterator[Mapping[str, Any]]:
    after = 0
    while True:
        params = {"after": after, "limit": _PAGE, "view": "report"}
        events = client.ask("GET", f"/jobs/{quote(job_id, safe='')}/events", params)
        yield from events
        if not events or events[-1]["seq"] <= after:
            return
        after = events[-1]["seq"]


def _message(longrepr: object) -> str:
    """Return the message of the exception; of a text, the whole text."""
    crash = longrepr.get("reprcrash") if isinstance(longrepr, dict) else None
    if isinstance(crash, dict):
        return str(crash.get("message"))
    return longrepr if isinstance(longrepr, str) else ""
