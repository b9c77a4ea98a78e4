"""One event of a stream, or several that travelled as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pytest_remote_ci.wire.events import events_of


def parts(fields: dict[str, Any]) -> list[Mapping[str, object]]:
    """Return the events that travelled as one."""
    return [event.fields for event in events_of(fields)]


HEAD: dict[str, Any] = {"type": "report", "timestamp": "now", "t": "several"}


def test_events_that_travelled_as_one_come_one_by_one() -> None:
    sent = [{"t": "passed", "id": "a"}, {"t": "started", "id": "b", "type": "complete"}]
    assert parts({**HEAD, "of": sent}) == [
        {"t": "passed", "id": "a", "type": "report", "timestamp": "now"},
        {"t": "started", "id": "b", "type": "report", "timestamp": "now"},
    ]
    assert parts(alone := {"type": "log", "data": "x"}) == [alone]


@pytest.mark.parametrize(
    "event", [HEAD, {**HEAD, "of": 1}, {**HEAD, "of": []}, {**HEAD, "of": [1, None, "x"]}]
)
def test_what_holds_no_events_is_one(event: dict[str, Any]) -> None:
    assert parts(dict(event)) == [event]
    assert parts({**HEAD, "of": [1, {"t": "x"}]}) == [{"t": "x", "type": "report", "timestamp": "now"}]
