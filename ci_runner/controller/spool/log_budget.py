"""How much log a job may have: one pure rule for whatever writes a job's log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ci_runner.model.job import JobEvent
from pytest_remote_ci.terminal import formats


def within_budget(events: Iterable[JobEvent], stored: int, budget: int) -> tuple[list[JobEvent], int]:
    """The events that fit into what is left of a job's log, and the bytes of their text.

    The first that does not fit is cut, and one line of the runner says so; with it the budget counts as used
    up, also by whoever adds up the stored text after a restart.
    """
    kept: list[JobEvent] = []
    size = 0
    for event in events:
        text = (event.data or "").encode()
        if event.type != "log":
            kept.append(event)
        elif stored + size + len(text) < budget:
            kept.append(event)
            size += len(text)
        elif stored + size < budget:
            cut = text[: budget - stored - size].decode("utf-8", "ignore")
            words = f"\n[log truncated at {formats.size(budget)}]\n"
            fields = {"stream": "runner", "truncated": True}
            kept += [replace(event, data=cut)] if cut else []
            kept.append(JobEvent("log", words, timestamp=event.timestamp, fields=fields))
            size += len(cut.encode()) + len(words)
    return kept, size
