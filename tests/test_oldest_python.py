"""The oldest Pythons that each package is for can read all of it: their grammar is not this one's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMPILES = """
import sys
for name in sys.argv[1:]:
    with open(name, encoding="utf-8") as file:
        compile(file.read(), name, "exec")
print(len(sys.argv) - 1)
"""


def python(version: str) -> str:
    """The path of an interpreter of this version."""
    found = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    path = str(found[-1]) if found else shutil.which(f"python{version}")
    if path is None:
        pytest.skip(f"there is no Python {version} here")
    return path


@pytest.mark.defect("A1")
@pytest.mark.parametrize(
    ("version", "folder"),
    [
        ("3.10", "ci_runner"),
        ("3.10", "pytest_remote_ci"),
        ("3.8", "pytest_remote_ci/job"),
        ("3.8", "pytest_remote_ci/wire/records.py"),
    ],
)
def test_the_oldest_python_takes_every_module(version: str, folder: str) -> None:
    path = ROOT / folder
    files = [str(path)] if path.is_file() else sorted(map(str, path.rglob("*.py")))
    assert path.is_file() or len(files) > 10
    done = subprocess.run(
        [python(version), "-I", "-c", COMPILES, *files], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, f"{len(files)}\n"), done.stderr
