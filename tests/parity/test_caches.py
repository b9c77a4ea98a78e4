"""`.pytest_cache` after each of a row of runs, and what `--lf` and its like make of it: the same both ways."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.developer import Developer
from support.parallel import Ahead, ahead

from .comparison import Pair, make_pair

ROW = (
    "t",
    "t --lf",
    "t --lf",
    "t --ff -q",
    "t/test_a.py --lf -v",
    "t/test_a.py t/test_b.py --sw",
    "t/test_a.py t/test_b.py --sw",
    "t/test_a.py t/test_b.py --sw --sw-skip",
    "t --lf --lfnf=none -k test_1",
    "t --cache-clear",
    "t --lf",
    "t/test_c.py",
    "t/test_c.py --lf",
)


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
        content = json.loads(path.read_text()) if path.exists() else None
        if isinstance(content, dict):
            content.pop("last_cache_date_str", None)
        found[name] = content
    return found


def in_a_row(both: Pair) -> str:
    """What differs of `ROW`, up to the first run that does."""
    for number, line in enumerate(ROW):
        difference = both.compare(*shlex.split(line)) or cache_difference(both)
        if difference:
            return f"run {number}, {line}:\n{difference}"
    return ""


def in_turn(both: Pair) -> str:
    """The same of `MIXED`."""
    for place in (both.direct, both.local):
        (place / "t" / "test_err.py").unlink()
        give_ages(place, 10**18, "bca")
    local = replace(both, direct=both.local)
    for number, line in enumerate(MIXED):
        args = shlex.split(line)
        with ThreadPoolExecutor(1) as aside:
            direct = aside.submit(both.directly, *args)
            again = both.remotely(*args) if number % 2 else local.directly(*args)
        difference = both.difference(direct.result(), again) or cache_difference(both)
        if difference:
            return f"run {number}, {line}:\n{difference}"
        if number == 3:  # a new file, and an older one that was changed just now
            for place in (both.direct, both.local):
                (place / "t" / "test_new.py").write_text("def test_1(): pass\n")
                give_ages(place, 2 * 10**18, ("c", "new", "b", "a"))
    return ""


def newest_first(both: Pair) -> str:
    """The same of `--nf` alone; or that its order is not that of the files."""
    for place in (both.direct, both.local):
        give_ages(place, 10**18, ("b", "c", "a", "err"))
    line = ("t", "--nf", "--continue-on-collection-errors")
    difference = both.compare(*line, "-v")
    shown = both.remotely(*line, "--co", "-q").out
    places = [shown.index(f"t/test_{name}.py::") for name in "bca"]
    return difference or ("" if places == sorted(places) else shown)


def give_ages(place: Path, newest: int, names: Iterable[str]) -> None:
    """Times of modification, a second apart, of the files of tests with these names."""
    for age, name in enumerate(names):
        os.utime(place / "t" / f"test_{name}.py", ns=(newest - age * 10**9, newest - age * 10**9))


def cache_difference(both: Pair) -> str:
    here, there = cached(both.local), cached(both.direct)
    return "" if here == there else f"directly: {there}\nremotely: {here}"


@pytest.fixture(scope="module")
def difference(
    developer: Developer, python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ahead[str]]:
    def work(run: Callable[[Pair], str]) -> str:
        return run(make_pair("cache", tmp_path_factory.mktemp("cache"), developer, python))

    with ahead(work, [(in_a_row,), (in_turn,), (newest_first,)]) as results:
        yield results


@pytest.mark.every(2)
def test_a_row_of_runs_leaves_the_same_cache_each_time(difference: Ahead[str]) -> None:
    assert not difference(in_a_row), difference(in_a_row)


def test_local_and_remote_runs_in_turn_in_one_folder_are_one_history(difference: Ahead[str]) -> None:
    assert not difference(in_turn), difference(in_turn)


def test_the_newest_files_come_first(difference: Ahead[str]) -> None:
    assert not difference(newest_first), difference(newest_first)
