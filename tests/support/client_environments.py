"""Environments of developers: this project's client and a pytest of one's choice, and nothing else.

They are made once and kept in `.cache`; uv and a package index are needed for the first time only.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

from install_wheel import built_wheel

ROOT = Path(__file__).resolve().parents[2]
#: The Python that they are for by default.
TAG = f"{sys.version_info[0]}.{sys.version_info[1]}"
UV = Path(sys.executable).with_name("uv")


def client(pytest_version: str, *, python: str = sys.executable, tag: str = TAG) -> Path:
    """The Python of such an environment; `tag` is the version of `python`."""
    folder = ROOT / ".cache" / "clients" / f"{tag}-{pytest_version}"
    return environment(folder, str(built_wheel()), f"pytest=={pytest_version}", python=python)


def environment(folder: Path, *requirements: str, python: str = sys.executable) -> Path:
    """The Python of a virtual environment in `folder` with these installed; made unless it is there with the same."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder / "made"
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = "\n".join((python, *requirements))
        if not made.exists() or made.read_text() != wanted:
            venv = [str(UV), "venv", "-q", "--clear", "--no-project", "-p", python, str(folder)]
            install = [str(UV), "pip", "install", "-q", "-p", str(folder), *requirements]
            for command in (venv, install):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"{command}: {done.stderr}"
            made.write_text(wanted)
    return folder / "bin" / "python"
