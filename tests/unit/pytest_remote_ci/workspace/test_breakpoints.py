"""Calls of debuggers: found in sources before anything is sent, and refused where they are reached."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_remote_ci.job import boot
from pytest_remote_ci.workspace import breakpoints, collect
from pytest_remote_ci.workspace.stat_cache import StatCache


@pytest.mark.parametrize(
    ("source", "line"),
    [
        pytest.param("x = 1\nbreakpoint()\n", 2, id="a call"),
        pytest.param("import pdb; pdb.set_trace()\n", 1, id="of a module"),
        pytest.param("from ipdb import set_trace\n\nset_trace ()\nbreakpoint()\n", 3, id="the first one"),
        pytest.param("text = 'breakpoint()'  # breakpoint()\n", None, id="in a text or a comment"),
        pytest.param("def breakpoint(): pass\n", None, id="a definition"),
        pytest.param("breakpoints()\n", None, id="another name"),
        pytest.param("breakpoint(\n", None, id="no Python"),
        pytest.param("\0breakpoint()", None, id="no text"),
    ],
)
def test_calls_are_found(source: str, line: int | None) -> None:
    assert breakpoints.find_call(source.encode()) == line


@pytest.mark.parametrize(
    ("chosen", "patterns", "refused"),
    [
        (".", ["test_*.py"], True),
        ("tests", ["test_*.py"], True),
        ("tests/test_a.py", ["test_*.py"], True),
        ("tests/test_b.py", ["test_*.py"], False),
        ("tests", ["check_*.py"], False),
        ("tests", ["tests/*.py"], True),
    ],
)
def test_only_chosen_test_files_count(
    tmp_path: Path, chosen: str, patterns: list[str], refused: bool
) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("breakpoint()\n")
    found = collect.collect(tmp_path, use_cache=False)
    places = [Path(tmp_path / chosen)]
    if refused:
        with pytest.raises(collect.WorkspaceError, match=r"tests/test_a\.py:1 calls a debugger"):
            breakpoints.refuse_calls(found.files, tmp_path, places, patterns)
    else:
        breakpoints.refuse_calls(found.files, tmp_path, places, patterns)


def test_what_was_found_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "test_a.py"
    file.write_text("breakpoint()\n")
    monkeypatch.setattr(time, "time_ns", lambda: file.stat().st_mtime_ns + 10_000_000_000)
    for reads in (1, 0):
        cache = StatCache(tmp_path / "cache", tmp_path)
        assert cache.facts("test_a.py", str(file), file.stat()).debugger == 1
        assert cache.misses == reads
        cache.save()


def test_a_debugger_that_is_reached_fails_its_test_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "product.py").write_text(
        "import pdb\ndef one():\n    breakpoint()\ndef two():\n    pdb.set_trace()\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import product\ndef test_one(): product.one()\ndef test_two(): product.two()\ndef test_three(): pass\n"
    )
    command = [sys.executable, boot.__file__, "module", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 1, done.stdout
    assert "2 failed, 1 passed" in done.stdout
    for line in (3, 5):
        assert f"product.py:{line}: a debugger was called, but the job has no terminal" in done.stdout
