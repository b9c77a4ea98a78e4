"""`.pytest_cache` after each of a row of runs, and what `--lf` and its like make of it: the same both ways."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .both_ways import Pair

ROW = (
    "t", "t --lf", "t --lf", "t --ff -q", "t/test_a.py --lf -v", "t/test_a.py t/test_b.py --sw",
    "t/test_a.py t/test_b.py --sw", "t/test_a.py t/test_b.py --sw --sw-skip", "t --lf --lfnf=none -k test_1",
    "t --cache-clear", "t --lf", "t/test_c.py", "t/test_c.py --lf",
)  # fmt: skip


def cached(project: Path) -> dict[str, Any]:
    """The contents of the cache that pytest's own plugins have."""
    found = {}
    for name in ("lastfailed", "nodeids", "stepwise"):
        path = project / ".pytest_cache" / "v" / "cache" / name
        found[name] = json.loads(path.read_text()) if path.exists() else None
        if isinstance(found[name], dict):
            found[name].pop("last_cache_date_str", None)
    return found


def test_a_row_of_runs_leaves_the_same_cache_each_time(pair: Callable[[str], Pair]) -> None:
    both = pair("cache")
    for number, line in enumerate(ROW):
        args = shlex.split(line)
        difference = both.difference(both.directly(*args), both.remotely(*args))
        assert not difference, f"run {number}, {line}:\n{difference}"
        assert cached(both.local) == cached(both.direct), f"run {number}, {line}"
