"""What a recorded session says, line by line, as events: a pure function over text that untrusted code wrote.

The kinds are those of `pytest_remote_ci.job.recorder`; docs/reference/wire.md has them for clients. What is not one of
them, is too deep or is no JSON is passed over.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ci_runner.model.job import JobEvent, Told

#: Bytes of the longest line that is a record.
MAX_RECORD_BYTES: Final = 4 << 20
#: Bytes of records kept per job; then one event says that the rest is not.
KEPT_BYTES: Final = 256 << 20
#: Lists and objects within one another.
_MAX_DEPTH: Final = 100

#: Python's JSON has them, others' has not; they may be words in a text, too.
_NO_NUMBERS: Final = (b"NaN", b"Infinity")

#: Kind of a record → type of its event.
TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "recorder", "unavailable", "session", "header", "collecting", "junit", "junit_attribute", "worker",
            "tests_over", "summary", "end", "interrupt", "internal_error", "stopped", "died", "note",
        ),
        "session",
    ),
    **dict.fromkeys(
        ("collect_report", "deselected", "tree", "collected", "collected_ids", "collection_lines"), "collected"
    ),
    "started": "started",
    **dict.fromkeys(("report", "passed", "logs", "exception", "compared", "several"), "report"),
    "finished": "finished",
    "warning": "warning",
    "terminal": "section",
}  # fmt: skip

#: How the recorder ends a line: what comes before is the fields' JSON, but for its end.
_SIZES: Final = re.compile(rb',"sizes":\[\d+,\d+,\d+\]\}\Z')
#: Names that an event's JSON has for itself.
_RESERVED: Final = frozenset({"sizes", "type", "data", "success", "timestamp", "seq", "stream"})


@dataclass(frozen=True)
class Record:
    """One line."""

    #: Bytes of `terminal`, `stdout` and `stderr` that come before it, as it claims.
    sizes: Mapping[str, int]
    #: None for a line that only keeps outputs in order.
    event: JobEvent | None


def parse(line: bytes, now: dt.datetime) -> Record:
    """The record of one line; an empty one for what is none."""
    try:
        raw = json.loads(line, parse_constant=str)
    except (ValueError, RecursionError):
        return Record({}, None)
    if not isinstance(raw, dict) or (line.count(b"[") + line.count(b"{") > _MAX_DEPTH and _is_deep(raw)):
        return Record({}, None)
    claimed = raw.get("sizes")
    sizes: dict[str, int] = {}
    if isinstance(claimed, list) and len(claimed) == 3 and all(type(size) is int for size in claimed):
        sizes = dict(zip(("terminal", "stdout", "stderr"), claimed, strict=True))
    kind = raw.get("t")
    if not isinstance(kind, str) or kind not in TYPES:
        return Record(sizes, None)
    fields = Told((name, value) for name, value in raw.items() if name not in _RESERVED)
    if len(fields) == len(raw) - 1:  # only the sizes are left out
        fields.text = _own_text(line)
    return Record(sizes, JobEvent(TYPES[kind], timestamp=now, fields=fields))


def _own_text(line: bytes) -> str:
    """What the recorder wrote of the fields, where it is one line of JSON in ASCII; else ""."""
    end = _SIZES.search(line)
    if end is None or not line.isascii() or b"\r" in line or any(word in line for word in _NO_NUMBERS):
        return ""
    return line[: end.start()].decode("ascii") + "}"


def truncated(now: dt.datetime) -> JobEvent:
    """Says that there is more than is kept."""
    return JobEvent("session", timestamp=now, fields={"t": "truncated"})


def _is_deep(value: Any) -> bool:
    layer = [value]
    for _ in range(_MAX_DEPTH):
        inner: list[Any] = []
        for item in layer:
            inner += item.values() if isinstance(item, dict) else item
        layer = [item for item in inner if isinstance(item, (dict, list))]
        if not layer:
            return False
    return True
