"""Sampled runs: some cases of each matrix of like cases and some of the longest tests, others each day.

Killing a controller at each of forty points takes as long as hundreds of other tests. With `--sample-cases` a test with
the marker `sampled(n)` runs `n` of its cases, evenly spaced from a start that the day of the commit determines. So all
processes of one run choose the same ones, a commit that mends a case is tried on that very case, and a few days
together run them all. A test with the marker `every(n)` runs on every n-th day. Files that talk to whole runners take
most of the time: one half of them runs on one day, the other half on the next.
"""

from __future__ import annotations

import subprocess
import zlib
from collections import defaultdict
from pathlib import Path

import pytest

#: Folders whose files run on every second day.
ALTERNATING = ("tests/e2e/", "tests/faults/", "tests/integration/controller/", "tests/parity/")


def day() -> int:
    """Return the day of the commit that is checked out, counted from 1970-01-01 UTC; 0 outside of a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "log", "-1", "--format=%ct"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return 0
    return int(found or "0") // 86400


def chosen(count: int, wanted: int, start: int) -> set[int]:
    """Return `wanted` of the numbers below `count`, evenly spaced from `start`; all of them if there are no more."""
    if wanted >= count:
        return set(range(count))
    return {(start + step * count // wanted) % count for step in range(wanted)}


def split(items: list[pytest.Item], start: int) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the items that a sampled run keeps, in their order, and those that it leaves out."""
    tests: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
    left_out: set[str] = set()
    for name, cases in tests.items():
        file, turn = name.partition("::")[0], start
        kept = set(range(len(cases)))
        sampled, every = (cases[0].get_closest_marker(marker) for marker in ("sampled", "every"))
        if file.startswith(ALTERNATING):
            turn = start // 2  # else a test for every second day might never meet its file's day
            if (_number(file) + start) % 2:
                kept = set()
        if sampled is not None:
            kept &= chosen(len(cases), sampled.args[0], turn)
        if every is not None and (_number(name) + turn) % every.args[0]:
            kept = set()
        left_out |= {case.nodeid for number, case in enumerate(cases) if number not in kept}
    return [item for item in items if item.nodeid not in left_out], [
        item for item in items if item.nodeid in left_out
    ]


def _number(name: str) -> int:
    return zlib.crc32(name.encode())
