#!/usr/bin/env python3
"""Build this project's wheel and install it into the environment that runs this, unless it is there already.

    .venv/bin/python scripts/install_wheel.py

End-to-end tests use the product as users install it, never an editable checkout. The wheel is built from a copy of the
sources, so that nothing else of the checkout gets into it, and kept in `.cache/wheel` by a hash of them. Needs uv and
setuptools in this environment, which the dependency group `dev` and the extra `runner` bring.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / ".cache" / "wheel"
#: All that distributions are built from.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "pytest_remote_ci", "ci_runner")
#: Holds the hash of the sources of what is installed.
_STAMP = "pytest-remote-ci-wheel"
_TIMEOUT = 600


def copy_sources(folder: Path) -> None:
    """Copy what distributions are built from: building leaves files beside the sources."""
    folder.mkdir(parents=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy(ROOT / name, folder)


def source_hash() -> str:
    """A hash of the names and contents of all sources."""
    digest = hashlib.sha256()
    for name in SOURCES:
        path = ROOT / name
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            if "__pycache__" not in file.parts and file.suffix != ".pyc":
                content = file.read_bytes()
                digest.update(f"{file.relative_to(ROOT).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def built_wheel() -> Path:
    """The wheel of the sources as they are now."""
    folder = WHEELS / source_hash()
    with _lock(WHEELS):
        if not folder.exists():
            _remove_old_wheels()
            with tempfile.TemporaryDirectory(dir=WHEELS, prefix=".build-") as made:
                copy_sources(Path(made) / "source")
                out = Path(made) / "out"
                _uv(
                    "build",
                    "--quiet",
                    "--wheel",
                    "--no-build-isolation",
                    "--python",
                    sys.executable,
                    "--out-dir",
                    str(out),
                    str(Path(made) / "source"),
                )
                out.rename(folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install() -> bool:
    """Install the wheel here, with the extra `runner`; False if it was there."""
    wheel = built_wheel()
    wanted = wheel.parent.name
    stamp = Path(sys.prefix) / _STAMP
    with _lock(WHEELS):
        if stamp.exists() and stamp.read_text() == wanted and _is_installed():
            return False
        # As pip leaves it: else each of the programs that tests start compiles it where PYTHONDONTWRITEBYTECODE is set.
        _uv(
            "pip",
            "install",
            "--quiet",
            "--compile-bytecode",
            "--python",
            sys.executable,
            "--reinstall-package",
            "pytest-remote-ci",
            f"pytest-remote-ci[runner] @ {wheel.as_uri()}",
        )
        stamp.write_text(wanted)
    return True


def _is_installed() -> bool:
    """Whether the packages are in this environment themselves: with an editable installation they are not."""
    return (Path(sysconfig.get_path("purelib")) / "pytest_remote_ci" / "__init__.py").is_file()


def _remove_old_wheels(keep: int = 5) -> None:
    def age(folder: Path) -> float:
        return folder.stat().st_mtime

    folders = sorted((folder for folder in WHEELS.iterdir() if folder.is_dir()), key=age, reverse=True)
    for folder in folders[keep:]:
        shutil.rmtree(folder, ignore_errors=True)


def _uv(*words: str) -> None:
    beside = Path(sys.executable).with_name("uv")
    program = str(beside) if beside.exists() else shutil.which("uv")
    if program is None:
        raise SystemExit("uv is missing; make the environment as CONTRIBUTING.md says")
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [program, *words],
        env=environ,
        cwd=WHEELS,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"`uv {words[0]}` failed:\n{done.stdout}{done.stderr}")


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    install()
