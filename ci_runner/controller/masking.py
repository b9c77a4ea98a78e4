"""Values of secrets do not get into events: whatever a job prints of them becomes three stars.

A help against accidents, not against the job itself, which may print a secret letter by letter. A value that is shorter
than `SHORTEST`, or that happens to be cut between two readings of the output, is not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from ci_runner.models import JobEvent

MASK: Final = "***"
#: Masking shorter ones would spoil ordinary text.
SHORTEST: Final = 4


def maskable(values: Iterable[str]) -> tuple[str, ...]:
    """What is to be looked for, the longest first; a value of several lines also line by line."""
    found = {part for value in values for part in (value, *value.splitlines())}
    return tuple(sorted((part for part in found if len(part) >= SHORTEST), key=len, reverse=True))


def masked(events: Sequence[JobEvent], secrets: Sequence[str]) -> Sequence[JobEvent]:
    """The events without these texts."""
    if not secrets:
        return events
    return [
        replace(event, data=_masked(event.data, secrets), fields=_masked(event.fields, secrets))
        for event in events
    ]


def _masked(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, MASK)
        return value
    if isinstance(value, Mapping):
        return {key: _masked(item, secrets) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(item, secrets) for item in value]
    return value
