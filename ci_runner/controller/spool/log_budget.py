"""Limit of a job's log: one pure rule for everything that writes to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ci_runner.model.job import JobEvent
from pytest_remote_ci.wire import formats


def within_budget(events: Iterable[JobEvent], stored: int, budget: int) -> tuple[list[JobEvent], int]:
    """Return the events that fit into the rest of a job's log, and the bytes of their text.

    The first one that does not fit is cut, and a line of the runner reports it. That line uses up the budget, also
    when the stored text is added up again after a restart.
    """
    fitting: list[JobEvent] = []
    size = 0
    for event in events:
        text = (event.data or "").encode()
        if event.type != "log":
            fitting.append(event)
        elif stored + size + len(text) < budget:
            fitting.append(event)
            size += len(text)
        elif stored + size < budget:
            cut = text[: budget - stored - size].decode("utf-8", "ignore")
            words = f"\n[log truncated at {formats.size(budget)}]\n"
            fields = {"stream": "runner", "truncated": True}
            fitting += [replace(event, data=cut)] if cut else []
            fitting.append(JobEvent("log", words, timestamp=event.timestamp, fields=fields))
            size += len(cut.encode()) + len(words)
    return fitting, size
