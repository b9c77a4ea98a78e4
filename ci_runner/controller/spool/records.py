"""Records as events: a pure function over lines that untrusted code wrote.

The kinds are those of `pytest_remote_ci.wire.records`. Unknown kinds, invalid JSON and data nested too deeply are
skipped. What a record of a known kind holds is the client's to check, so that a newer recorder's fields reach it.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ci_runner.model.job import JobEvent, ParsedFields
from pytest_remote_ci.wire import records as wire

#: Maximum bytes of a record's line.
MAX_RECORD_BYTES: Final = 4 << 20
#: Maximum bytes of records stored per job; one event then reports that the rest is missing.
KEPT_BYTES: Final = 256 << 20
#: Maximum nesting of lists and objects.
_MAX_DEPTH: Final = 100

#: Valid in Python's JSON only; they may also be words in a text.
_NO_NUMBERS: Final = (b"NaN", b"Infinity")

#: The end of a recorder's line: before it is the JSON of the fields without its closing brace.
_SIZES: Final = re.compile(rb',"sizes":\[\d+,\d+,\d+\]\}\Z')
#: Names that an event's JSON uses itself.
_RESERVED: Final = frozenset({"sizes", "type", "data", "success", "timestamp", "seq", "stream"})


@dataclass(frozen=True)
class Line:
    """One line of the records."""

    #: Bytes of `terminal`, `stdout` and `stderr` that precede it, as it claims.
    sizes: Mapping[str, int]
    #: None for a line that only orders outputs.
    event: JobEvent | None


def parse(line: bytes, now: dt.datetime) -> Line:
    """Return what one line holds; nothing for an invalid line."""
    try:
        raw = json.loads(line, parse_constant=str)
    except (ValueError, RecursionError):
        return Line({}, None)
    if not isinstance(raw, dict) or (line.count(b"[") + line.count(b"{") > _MAX_DEPTH and _is_deep(raw)):
        return Line({}, None)
    claimed = raw.get("sizes")
    sizes: dict[str, int] = {}
    if isinstance(claimed, list) and len(claimed) == 3 and all(type(size) is int for size in claimed):
        sizes = dict(zip(("terminal", "stdout", "stderr"), claimed, strict=True))
    kind = wire.kind_of(raw)
    if kind is None or not kind.event_type or kind is wire.Truncated:
        return Line(sizes, None)
    fields = ParsedFields((name, value) for name, value in raw.items() if name not in _RESERVED)
    if len(fields) == len(raw) - 1:  # only the sizes are missing
        fields.text = _own_text(line)
    return Line(sizes, JobEvent(kind.event_type, timestamp=now, fields=fields))


def _own_text(line: bytes) -> str:
    """Return the recorder's own text of the fields if it is one line of JSON in ASCII; else ""."""
    end = _SIZES.search(line)
    if end is None or not line.isascii() or b"\r" in line or any(word in line for word in _NO_NUMBERS):
        return ""
    return line[: end.start()].decode("ascii") + "}"


def truncated(now: dt.datetime) -> JobEvent:
    """Return the event that reports missing records."""
    return JobEvent(wire.Truncated.event_type, timestamp=now, fields=wire.Truncated().dump())


def _is_deep(value: object) -> bool:
    layer = [value]
    for _ in range(_MAX_DEPTH):
        inner: list[object] = []
        for item in layer:
            inner += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        layer = [item for item in inner if isinstance(item, (dict, list))]
        if not layer:
            return False
    return True
