"""``--picked``: the changed test files are found here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pytest_remote_ci.errors import ConfigError, NothingSelected
from pytest_remote_ci.session import picked
from pytest_remote_ci.session.arguments import Place


def unknown(option: str) -> bool | None:
    """Return what pytest's parser says where pytest-picked is not active."""
    return {"-k": True, "-x": False}.get(option)


def git(folder: Path, *args: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=master"]
    subprocess.run(["git", *identity, *args], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    for name in ("test_a.py", "test_b.py", "sub/test_c.py", "test_gone.py", "code.py"):
        (folder / name).write_text("def test(): pass\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


def change(project: Path, *names: str) -> None:
    for name in names:
        (project / name).write_text("def test_changed(): pass\n")


@pytest.mark.parametrize(
    ("args", "sent"),
    [
        (["--picked"], ["new_test.py", "sub/test_c.py", "test_b.py"]),
        (["-x", "--picked", "-k", "x"], ["-x", "-k", "x", "new_test.py", "sub/test_c.py", "test_b.py"]),
        (["--picked", "only"], ["new_test.py", "sub/test_c.py", "test_b.py"]),
        (["--picked=first"], ["new_test.py", "sub/test_c.py", "test_b.py", "tests"]),
        (["--picked", "first"], ["new_test.py", "sub/test_c.py", "test_b.py", "tests"]),
        (["--picked", "--mode", "unstaged"], ["new_test.py", "sub/test_c.py", "test_b.py"]),
        (["sub", "--mode=x"], ["sub", "--mode=x"]),
    ],
)
def test_changed_test_files_take_the_place_of_the_option(
    project: Path, pytestconfig: pytest.Config, args: list[str], sent: list[str]
) -> None:
    change(project, "test_b.py", "code.py", "sub/test_c.py", "new_test.py")
    git(project, "add", "test_b.py")
    (project / "test_gone.py").unlink()
    assert picked.replaced(args, pytestconfig, Place(project, project), unknown)[0] == sent


def test_paths_are_those_of_the_folder_where_pytest_was_started(
    project: Path, pytestconfig: pytest.Config
) -> None:
    change(project, "test_b.py", "sub/test_c.py")
    place = Place(project, project / "sub")
    assert picked.replaced(["--picked"], pytestconfig, place, unknown)[1] == ["test_c.py", "../test_b.py"]


def test_a_branch_is_compared_with_its_parent(project: Path, pytestconfig: pytest.Config) -> None:
    git(project, "checkout", "-qb", "topic")
    change(project, "test_a.py")
    git(project, "commit", "-qam", "second")
    place = Place(project, project)
    args = ["--picked", "--mode=branch", "--parent-branch", "master"]
    assert picked.replaced(args, pytestconfig, place, unknown)[0] == ["test_a.py"]
    with pytest.raises(NothingSelected, match="no test file differs from HEAD; nothing was sent"):
        picked.replaced(["--picked"], pytestconfig, place, unknown)


def test_without_git_it_is_an_error(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    with pytest.raises(ConfigError, match=r"git cannot list the changed files: .*(n|N)ot a git repository"):
        picked.replaced(["--picked"], pytestconfig, Place(tmp_path, tmp_path), unknown)
