"""Coverage measured over there: its table and its verdict here, and its files where a local run leaves them."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.developer import run

from .comparison import Pair
from .environments import Equipped
from .plugin_table import COVERAGE

QUIET = ("-p", "no:sugar", "-p", "no:randomly")


@pytest.fixture
def make(equipped: Equipped, tmp_path: Path) -> Callable[[Path], Pair]:
    """A pair whose code is measured over there; the argument is the interpreter here."""
    return lambda here: equipped.pair("covered", "tools", here, tmp_path)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("line", COVERAGE)
def test_a_coverage_report_and_its_verdict_are_the_same(
    make: Callable[[Path], Pair], bare: Path, line: str
) -> None:
    both = make(bare)
    args = (*shlex.split(line), *QUIET)
    direct, remote = both.run(*args)
    assert "coverage: platform" in direct.out, direct.text
    difference = both.difference(direct, remote)
    assert not difference, difference
    assert files_of(both.local) == files_of(both.direct)


def test_data_comes_home_and_speaks_of_the_files_here(make: Callable[[Path], Pair], full: Path) -> None:
    both = make(full)
    line = "--cov=shop --cov-branch --cov-report=xml --cov-report=json:out/c.json --cov-report=html --cov-report=lcov"
    both.run(*shlex.split(line), *QUIET)
    assert measured(both.local / ".coverage") == {str(path) for path in (both.local / "src").rglob("*.py")}
    shown = [
        subprocess.run(
            [str(full), "-m", "coverage", "report", "-m"],
            cwd=place,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for place in (both.direct, both.local)
    ]
    assert "prices.py" in shown[0]
    assert shown[1] == shown[0]
    subprocess.run([str(full), "-m", "coverage", "html", "-d", "again"], cwd=both.local, check=True)
    assert "never_called" in next((both.local / "again").glob("*prices_py.html")).read_text()
    assert f"<source>{both.local}</source>" in (both.local / "coverage.xml").read_text()
    assert json.loads((both.local / "out" / "c.json").read_text())["totals"]["covered_lines"] == 4
    assert (both.local / "htmlcov" / "index.html").exists()
    assert texts(both.local, both.local) == texts(both.direct, both.direct)


def test_data_is_there_when_a_plugin_here_looks_for_it_at_the_end(
    make: Callable[[Path], Pair], bare: Path
) -> None:
    both = make(bare)
    (both.local / "looks").mkdir()
    (both.local / "looks" / "looking.py").write_text(
        "import os\ndef pytest_sessionfinish():\n    print('coverage is', os.path.exists('.coverage'))\n"
    )
    environment = both.developer.environ(PYTEST_PLUGINS="looking", PYTHONPATH=str(both.local / "looks"))
    done = run(
        [both.developer.python, "-m", "pytest", "--remote-ci", "--cov=shop", *QUIET],
        cwd=both.local,
        env=environment,
    )
    assert "coverage is True" in done.out, done.text


def measured(path: Path) -> set[str]:
    """The files that coverage data is about."""
    with closing(sqlite3.connect(path)) as data:
        return {row[0] for row in data.execute("select path from file")}


def files_of(project: Path) -> set[str]:
    """What a run has left in a project, by name."""
    found = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    return {
        name for name in found if not name.startswith((".pytest_cache", ".benchmarks")) and ".pyc" not in name
    }


def texts(project: Path, root: Path) -> dict[str, str]:
    """The reports that are texts, without times and places."""
    found = {}
    for name in ("coverage.xml", "coverage.lcov", "out/c.json"):
        text = (project / name).read_text().replace(str(root), "ROOT")
        found[name] = re.sub(r'timestamp="\d+"|"timestamp": "[^"]*"', "", text)
    return found
