"""Shorten the tracebacks of a stored session to a shorter ``--tb`` style than the recorded one.

pytest formats a traceback where the test fails, so a replay can remove parts but not add any. Anything other than
pytest's own tracebacks stays unchanged.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_remote_ci.replay.pytest_internals import ExceptionChainRepr, ReprEntry, ReprFileLocation

if TYPE_CHECKING:
    from pytest_remote_ci.replay.decode import AnyReport

_FUNCTION = re.compile(r"^ *>? *(?:async )?def (\w+)")


def restyle(report: AnyReport, style: str) -> None:
    """Shorten this report's traceback if `style` is "short" or "line"."""
    if style not in ("short", "line") or not isinstance(report.longrepr, ExceptionChainRepr):
        return
    shorten = _short if style == "short" else _line
    for traceback, _, _ in report.longrepr.chain:
        traceback.reprentries = [
            shorten(entry) if isinstance(entry, ReprEntry) and entry.style == "long" else entry
            for entry in traceback.reprentries
        ]
        traceback.style = "short" if style == "short" else "line"


def _short(entry: ReprEntry) -> ReprEntry:
    name, lines = "<module>", []
    for line in entry.lines:
        found = _FUNCTION.match(line)
        if found:
            name = found[1]
        if line.startswith(">"):
            lines.append("    " + line[1:].strip())
    lines += _errors(entry)
    place = entry.reprfileloc
    if place is not None:
        place = ReprFileLocation(place.path, place.lineno, f"in {name}")
    return ReprEntry(lines, None, entry.reprlocals, place, "short")


def _line(entry: ReprEntry) -> ReprEntry:
    return ReprEntry(_errors(entry), None, None, None, "line")


def _errors(entry: ReprEntry) -> list[str]:
    """Return the lines with the exception, without the statement's indentation."""
    statement = next((line for line in reversed(entry.lines) if line.startswith(">")), "")
    extra = max(0, len(statement) - len(statement[1:].lstrip()) - 4)
    return ["E" + line[1:].removeprefix(" " * extra) for line in entry.lines if line.startswith("E")]
