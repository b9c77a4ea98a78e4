"""Messages of a job's failed tests, from the reports among its events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pytest_remote_ci.wire.events import Event, events_of
from pytest_remote_ci.wire.records import Report

if TYPE_CHECKING:
    from pytest_remote_ci.client.client import Client

#: Events of one request.
_PAGE: Final = 1000
#: Longest message.
_LONGEST: Final = 10_000


def messages(client: Client, job_id: str) -> dict[str, str]:
    """Return node id → message of its first failure. Empty if the session was not recorded, or no more stored."""
    found: dict[str, str] = {}
    for sent in _events(client, job_id):
        for event in events_of(sent.fields):
            report = event.valid_record
            if isinstance(report, Report) and report.outcome == "failed":
                found.setdefault(report.nodeid, report.message[:_LONGEST])
    return found


def _events(client: Client, job_id: str) -> Iterator[Event]:
    after = 0
    while True:
        events = client.events(job_id, after=after, limit=_PAGE, view="report")
        yield from events
        if not events or events[-1].seq <= after:
            return
        after = events[-1].seq
