"""Calls of git in repositories that somebody else has configured."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.waiting import wait_until

from pytest_remote_ci.workspace import git


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one tracked file."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "a.txt").write_text("one\n")
    for arguments in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *arguments], cwd=folder, check=True, timeout=30)
    return folder


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def configure(folder: Path, name: str, value: object) -> None:
    subprocess.run(["git", "config", name, str(value)], cwd=folder, check=True, timeout=30)


def test_output_and_warnings(repository: Path) -> None:
    assert git.run(repository, "ls-files", "-z") == (b"a.txt\0", "")


def test_an_error_is_one_line(repository: Path) -> None:
    with pytest.raises(git.GitError, match=r"\Afatal: .*nothing.*\Z"):
        git.run(repository, "rev-parse", "nothing")


def test_a_folder_that_is_gone_is_no_missing_git(repository: Path) -> None:
    with pytest.raises(git.GitError, match="No such file or directory"):
        git.run(repository / "gone", "status")


def test_without_git_it_says_so(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(git.GitError, match="git is not installed"):
        git.run(repository, "status")


def test_variables_of_a_hook_do_not_bind_it(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert git.run(repository, "ls-files")[0] == b"a.txt\n"


def test_a_monitor_that_the_repository_names_is_not_started(repository: Path, tmp_path: Path) -> None:
    mark = tmp_path / "started"
    monitor = script(tmp_path / "monitor", f"touch {mark}; exit 1")
    configure(repository, "core.fsmonitor", monitor)
    subprocess.run(["git", "status"], cwd=repository, capture_output=True, timeout=30, check=True)
    assert mark.exists(), "git alone starts it"
    mark.unlink()
    git.run(repository, "status", "--porcelain")
    assert not mark.exists()


def test_what_git_has_started_is_ended_with_it(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter that hangs would outlive a git that was killed alone."""
    number = tmp_path / "pid"
    configure(repository, "filter.slow.clean", script(tmp_path / "slow", f"echo $$ > {number}; sleep 300"))
    (repository / ".gitattributes").write_text("*.txt filter=slow\n")
    (repository / "a.txt").write_text("two\n")
    monkeypatch.setattr(git, "_TIMEOUT", 3.0)
    with pytest.raises(git.GitError, match="git status took longer than 3 s"):
        git.run(repository, "status", "--porcelain")
    pid = int(number.read_text())
    wait_until(lambda: not is_running(pid), what="the end of the filter", timeout=20)


def is_running(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_nothing_is_asked_and_nothing_is_locked(repository: Path, tmp_path: Path) -> None:
    seen = tmp_path / "environment"
    configure(repository, "alias.look", f"!env > {seen}")
    git.run(repository, "look")
    lines = seen.read_text().splitlines()
    assert {"GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0", "LC_ALL=C"} <= set(lines)
