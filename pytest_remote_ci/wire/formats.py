"""Formats for sizes, durations and times: one for each, on both sides. Machine-readable output has raw values."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Final

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB")
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?\s*[smhdw]\s*)+\Z", re.ASCII)
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def size(count: int) -> str:
    """Return a number of bytes in binary units: ``7 B``, ``1.5 MiB``, ``2 GiB``."""
    if count < 1024:
        return f"{count} B"
    amount = float(count)
    for unit in _UNITS:
        amount /= 1024
        if amount < 1023.95 or unit == _UNITS[-1]:
            break
    return f"{_short(amount)} {unit}"


def duration(seconds: float) -> str:
    """Return a duration: ``0.4 s``, ``90 s``, ``3 min 5 s``, ``60 min``, ``2 h 1 min``."""
    if seconds < 9.95:
        return f"{_short(seconds)} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return _pair(whole // 60, "min", whole % 60, "s")
    return _pair(whole // 3600, "h", whole % 3600 // 60, "min")


def exact_duration(seconds: object) -> str:
    """Return a test's duration to the millisecond, for a column: ``0.123 s``; ``-`` for anything but a number."""
    return f"{seconds:.3f} s" if isinstance(seconds, (int, float)) else "-"


def parse_duration(text: object) -> float | None:
    """Return the seconds of a text such as ``90s``, ``10m`` or ``1h 30m``; None for anything else."""
    if not isinstance(text, str) or len(text) > 100 or not _DURATION.match(text.strip()):
        return None
    return sum(float(amount) * _SECONDS[unit] for amount, unit in _DURATION_PART.findall(text))


def parse_time(text: object) -> datetime | None:
    """Return the datetime of a time from the API (UTC if it has no zone); None for anything else."""
    try:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)


def time(text: object, missing: str = "N/A") -> str:
    """Return a time from the API in local time, as ``2026-01-31 12:00:05``; `missing` for anything else."""
    moment = parse_time(text)
    try:
        return missing if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):  # a year that the time zone moves out of range
        return missing


def _short(amount: float) -> str:
    return f"{amount:.1f}".removesuffix(".0")


def _pair(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large} {large_unit}" + (f" {small} {small_unit}" if small else "")
