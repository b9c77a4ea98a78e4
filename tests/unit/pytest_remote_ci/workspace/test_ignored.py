"""Which of the files that a job made would not be sent, with and without git."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_remote_ci.workspace import collect
from pytest_remote_ci.workspace.ignored import ignored

MADE = ("a.txt", "a.log", "sub/a.txt", "sub/b.bin", "build/x", "sub/build/x", "htmlcov/index.html")


def make(root: Path, name: str, text: str = "x\n") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.fixture(params=["plain", "git", "ignored by git", "without a git program", "source distribution"])
def project(
    request: pytest.FixtureRequest, plain: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    root = repository if request.param in ("git", "without a git program") else plain
    if request.param == "ignored by git":
        make(repository, ".gitignore", "/scratch/\n")
        root = repository / "scratch"
    make(root, ".gitignore", "*.log\n")
    make(root, "sub/.gitignore", "*.bin\n")
    make(root, "htmlcov/.gitignore", "*\n")
    if request.param == "without a git program":
        monkeypatch.setenv("PATH", "")
    if request.param == "source distribution":
        make(root, "PKG-INFO")
        os.utime(root / "PKG-INFO", (0, 0))  # released before the tools ran here
    return root


def test_what_a_job_made_is_ignored_as_if_it_were_here(project: Path, request: pytest.FixtureRequest) -> None:
    """A project that a repository around it ignores as a whole is one without git: its changes are not hidden."""
    found = ignored(project, MADE)
    for name in MADE:
        make(project, name)
    sent = {file.path for file in collect.collect(project).files}
    shipped = {"a.log"} if (project / "PKG-INFO").exists() else set()
    assert set(MADE) - found == sent.intersection(MADE) - shipped
    assert {"a.txt", "sub/a.txt"} <= sent
    assert "htmlcov/index.html" in found


def test_excluded_files_are_ignored(plain: Path) -> None:
    assert ignored(plain, MADE, ["sub/"]) >= {"sub/a.txt", "sub/b.bin"}
