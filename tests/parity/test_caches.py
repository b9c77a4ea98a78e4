"""`.pytest_cache` after each of a row of runs, and what `--lf` and its like make of it: the same both ways."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .both_ways import Pair

ROW = (
    "t", "t --lf", "t --lf", "t --ff -q", "t/test_a.py --lf -v", "t/test_a.py t/test_b.py --sw",
    "t/test_a.py t/test_b.py --sw", "t/test_a.py t/test_b.py --sw --sw-skip", "t --lf --lfnf=none -k test_1",
    "t --cache-clear", "t --lf", "t/test_c.py", "t/test_c.py --lf",
)  # fmt: skip


#: Run locally, remotely, locally and so on, in one folder.
MIXED = (
    "t",
    "t --lf",
    "t --lf",
    "t --ff -q",
    "t --nf -v",
    "t --sw",
    "t --sw",
    "t/test_c.py --lf",
    "t --nf --co -q",
)


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
        difference = both.compare(*args)
        assert not difference, f"run {number}, {line}:\n{difference}"
        assert cached(both.local) == cached(both.direct), f"run {number}, {line}"


def test_local_and_remote_runs_in_turn_in_one_folder_are_one_history(pair: Callable[[str], Pair]) -> None:
    both = pair("cache")
    for place in (both.direct, both.local):
        (place / "t" / "test_err.py").unlink()
        for age, name in enumerate(("b", "c", "a")):
            os.utime(place / "t" / f"test_{name}.py", ns=(10**18 - age * 10**9, 10**18 - age * 10**9))
    for number, line in enumerate(MIXED):
        args = shlex.split(line)
        direct = both.directly(*args)
        again = both.remotely(*args) if number % 2 else replace(both, direct=both.local).directly(*args)
        difference = both.difference(direct, again)
        assert not difference, f"run {number}, {line}:\n{difference}"
        assert cached(both.local) == cached(both.direct), f"run {number}, {line}"
        if number == 3:  # a new file, and an older one that was changed just now
            for place in (both.direct, both.local):
                (place / "t" / "test_new.py").write_text("def test_1(): pass\n")
                for age, name in enumerate(("c", "new", "b", "a")):
                    os.utime(
                        place / "t" / f"test_{name}.py",
                        ns=(2 * 10**18 - age * 10**9, 2 * 10**18 - age * 10**9),
                    )


def test_the_newest_files_come_first(pair: Callable[[str], Pair]) -> None:
    both = pair("cache")
    for place in (both.direct, both.local):
        for age, name in enumerate(("b", "c", "a", "err")):
            os.utime(place / "t" / f"test_{name}.py", ns=(10**18 - age * 10**9, 10**18 - age * 10**9))
    difference = both.compare("t", "--nf", "-v", "--continue-on-collection-errors")
    assert not difference, difference
    shown = both.remotely("t", "--nf", "--co", "-q", "--continue-on-collection-errors").out
    assert [shown.index(f"t/test_{name}.py::") for name in "bca"] == sorted(
        shown.index(f"t/test_{name}.py::") for name in "bca"
    )
