"""What Python does at its start for this project, and what it does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

_LOADED = "import sys; print(sorted(name for name in sys.modules if name.startswith('pytest_remote_ci')))"


def loaded(*words: str, **variables: str) -> str:
    """Our modules in a Python that has just started."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, *words],
        env=kept | variables, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert not done.stderr
    return done.stdout.strip()


def test_a_python_that_does_not_name_us_loads_nothing_of_ours() -> None:
    assert loaded("-x", "tests") == "[]"


@pytest.mark.parametrize("option", ["--remote-ci", "--remote-ci-attach=x"])
def test_one_that_does_loads_one_module(option: str) -> None:
    found = "['pytest_remote_ci', 'pytest_remote_ci.early']"
    assert loaded(option) == found
    assert loaded(PYTEST_ADDOPTS=option) == found


def test_pytest_is_not_imported_by_it() -> None:
    code = "import sys; print('pytest' in sys.modules, '_pytest' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "--remote-ci"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_the_module_is_imported_as_ever() -> None:
    code = (
        "import sys, importlib, _pytest.config as config\n"
        "assert not any(getattr(finder, '__name__', '') == '_Finder' for finder in sys.meta_path)\n"
        "assert config.__spec__.origin == config.__file__ and config.__spec__.submodule_search_locations\n"
        "import _pytest.config.argparsing\n"
        "print(importlib.reload(config) is config)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--remote-ci"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"


def test_the_file_is_a_part_of_what_is_installed() -> None:
    names = [str(path) for path in distribution("pytest-remote-ci").files or ()]
    assert "pytest_remote_ci.pth" in names, "so that it goes when the project is uninstalled"


def test_a_wheel_has_it_where_python_looks(tmp_path: Path) -> None:
    root, copy = Path(__file__).resolve().parents[2], tmp_path / "copy"
    for name in ("pytest_remote_ci", "ci_runner"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "pytest_remote_ci.pth", "README.md"):
        shutil.copy(root / name, copy)
    uv = Path(sys.executable).with_name("uv")
    command = [
        uv,
        "build",
        "-q",
        "--wheel",
        "--no-build-isolation",
        "-p",
        sys.executable,
        "-o",
        tmp_path,
        copy,
    ]
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    assert "pytest_remote_ci.pth" in zipfile.ZipFile(wheel).namelist()
