"""Which modules are imported ahead of a job, and how they get from one job to the next."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_remote_ci.job import preload


@pytest.mark.parametrize("name", ["numpy", "numpy.linalg", "pandas._libs.tslibs"])
def test_slow_packages_are_wanted(name: str) -> None:
    assert preload.is_wanted(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "os",
        "numpyx",
        "mine.numpy",
        "numpy.",
        "numpy..core",
        "numpy; x",
        "numpy.a\n",
        "numpy." + "a" * 200,
    ],
)
def test_nothing_else_is(name: str) -> None:
    assert not preload.is_wanted(name)


def run(project: Path, place: Path, code: str) -> list[str]:
    """Run code in a process whose `numpy` lies in `place`; return what it notes for the next job."""
    (place / "numpy").mkdir(parents=True)
    (place / "numpy" / "__init__.py").write_text("from numpy import linalg\n")
    (place / "numpy" / "linalg.py").write_text("")
    spool = project.parent / "spool"
    spool.mkdir()
    code = f"import sys; sys.path.insert(0, {str(place)!r}); from pytest_remote_ci.job import preload; {code}"
    code = f"{code}; preload.note({str(spool)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True)
    file = spool / preload.FILE
    return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def test_a_job_notes_what_it_imported(project: Path, tmp_path: Path) -> None:
    assert sorted(run(project, tmp_path / "site-packages", "import numpy")) == ["numpy", "numpy.linalg"]


def test_a_job_without_such_imports_notes_nothing(project: Path, tmp_path: Path) -> None:
    assert run(project, tmp_path / "site-packages", "pass") == []


def test_a_package_of_the_project_is_not_noted(project: Path) -> None:
    assert run(project, project / "src", "import numpy") == []


def test_a_file_of_that_name_is_not_followed(project: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    code = f"import os, numpy; os.symlink({str(target)!r}, {str(tmp_path / 'spool' / preload.FILE)!r})"
    run(project, tmp_path / "site-packages", code)
    assert not target.exists()


def test_what_cannot_be_imported_any_more_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from pytest_remote_ci.job import preload; "
        "preload.load(['numpy.gone', 'json', 'numpy']); print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
