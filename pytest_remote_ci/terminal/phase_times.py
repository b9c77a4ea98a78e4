"""The times of a submission's phases: measured here, merged with the runner's, shown as a line or a table."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.control_characters import escaped
from pytest_remote_ci.wire.timing import PHASES, Timing

#: Seconds from a process' start to its submission beyond which something else ran in it before.
_LONGEST_START = 60.0


def process_began() -> float | None:
    """Return when this process was started, by `time.monotonic`.

    None if the system does not say so, or if it was so long ago that something other than this session took the time.
    """
    try:
        ticks = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return time.monotonic() - age if 0 <= age < _LONGEST_START else None


def line(timing: Timing, *, is_verbose: bool) -> str | None:
    """Return one line about a session's time; unless `is_verbose`, only what was not there yet, else None."""
    parts = list(map(escaped, timing.cold))
    if is_verbose:
        how = {"container": f" ({escaped(timing.container)})" if timing.container else ""}
        phases = ", ".join(f"{name} {seconds:.2f}{how.get(name, '')}" for name, seconds in timing.ordered())
        parts.insert(0, f"{formats.duration(timing.total)} in all: {phases}")
    return "; ".join(parts) or None


def table(timing: Timing) -> Iterator[str]:
    """Yield lines: the phases in order with their seconds and meaning, their sum, and what was not there yet."""
    for name, seconds in timing.ordered():
        how = f": {escaped(timing.container)}" if name == "container" and timing.container else ""
        yield f"{name:<12}{seconds:>9.3f} s  {PHASES[name]}{how}"
    yield f"{'all':<12}{timing.total:>9.3f} s"
    for reason in timing.cold:
        yield escaped(reason)
