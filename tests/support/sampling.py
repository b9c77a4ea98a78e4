"""Matrices of like cases: a sampled run takes some cases of each, others at each commit.

Killing a controller at each of forty points takes as long as hundreds of other tests. With `--sample-cases` a test with
the marker `sampled(n)` runs `n` of its cases, evenly spaced from a start that the commit determines: all processes of
one run choose the same ones, a run can be repeated, and a few commits together run them all.
"""

from __future__ import annotations

import subprocess
from collections import defaultdict
from pathlib import Path

import pytest


def commit() -> str:
    """The commit that is checked out, as hexadecimal digits; '0' outside of a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "0"
    return found or "0"


def chosen(count: int, wanted: int, start: int) -> set[int]:
    """Return `wanted` of the numbers below `count`, evenly spaced from `start`; all of them if there are no more."""
    if wanted >= count:
        return set(range(count))
    return {(start + step * count // wanted) % count for step in range(wanted)}


def split(items: list[pytest.Item], start: int) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the items that a sampled run keeps, in their order, and those that it leaves out."""
    tests: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled") is not None:
            tests[item.nodeid.partition("[")[0]].append(item)
    left_out: set[str] = set()
    for cases in tests.values():
        marker = cases[0].get_closest_marker("sampled")
        assert marker is not None
        kept = chosen(len(cases), marker.args[0], start)
        left_out |= {case.nodeid for number, case in enumerate(cases) if number not in kept}
    return [item for item in items if item.nodeid not in left_out], [
        item for item in items if item.nodeid in left_out
    ]
