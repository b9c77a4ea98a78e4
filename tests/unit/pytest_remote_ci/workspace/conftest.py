"""Projects to collect: in git, outside git, and one of a user who may not read everything."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "a")
        monkeypatch.setenv(f"{name}_EMAIL", "a@example.com")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A folder without git."""
    folder = tmp_path / "plain"
    folder.mkdir()
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder without git, and during the test a user who may not read everything."""
    with tempfile.TemporaryDirectory(prefix="remote-ci-test-") as name:
        folder = Path(name)
        is_root = os.geteuid() == 0
        if is_root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if is_root:
                os.seteuid(0)
            for path in folder.iterdir():
                path.chmod(0o700)


@pytest.fixture(params=["git", "disk"])
def either(request: pytest.FixtureRequest, repository: Path, plain: Path) -> Path:
    """A project in git and one outside."""
    return repository if request.param == "git" else plain
