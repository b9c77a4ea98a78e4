"""Which folder is the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_remote_ci.config.config import project_root
from pytest_remote_ci.workspace import uv_workspace


@pytest.mark.parametrize(
    ("files", "rootdir", "cwd", "expected"),
    [
        (["p/pyproject.toml"], "p", "p", "p"),
        (["p/pyproject.toml", "p/tests/a.py"], "p", "p/tests", "p"),
        (["p/pyproject.toml", "p/tests/a.py"], "p/tests", "p/tests", "p"),
        (["p/requirements.txt", "p/q/setup.py"], "p/q", "p/q", "p/q"),
        (["p/pyproject.toml", "p/tests/pytest.ini"], "p/tests", "p", "p"),
        (["p/.git/HEAD", "p/pyproject.toml", "p/tests/pytest.ini"], "p/tests", "p/tests", "p"),
        (["p/pyproject.toml", "p/q/.git/HEAD"], "p/q", "p/q", "p/q"),
        (["p/pyproject.toml", "p/q/.git/HEAD", "p/q/r/a.py"], "p/q/r", "p/q/r", "p/q"),
        (["p/pyproject.toml", "p/q/tox.ini"], "p/q", "p/q", "p/q"),
        (["p/a.py"], "p", "p", "p"),
        (["p/.git", "p/q/a.py"], "p/q", "p/q", "p"),
    ],
    ids=[
        "rootdir itself",
        "started below",
        "rootdir is a plain folder below",
        "nearest project wins",
        "pytest.ini below, started above: the sources beside it travel too",
        "pytest.ini below in a git tree",
        "never above the git top level",
        "the git top level without any file",
        "tox.ini outside git",
        "no file at all",
        "a .git file marks a work tree",
    ],
)
def test_the_project_is_found(
    tmp_path: Path, files: list[str], rootdir: str, cwd: str, expected: str
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert project_root(tmp_path / rootdir, tmp_path / cwd, tmp_path) == tmp_path / expected


@pytest.mark.parametrize("marker", [".git", "requirements.txt", "tox.ini"])
def test_the_home_folder_is_no_project_of_what_lies_in_it(tmp_path: Path, marker: str) -> None:
    (tmp_path / marker).touch()
    (tmp_path / "scratch").mkdir()
    assert project_root(tmp_path / "scratch", tmp_path / "scratch", tmp_path) == tmp_path / "scratch"


def test_the_home_folder_is_a_project_when_it_is_rootdir_and_has_a_project_file(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    assert project_root(tmp_path, tmp_path, tmp_path) == tmp_path


WORKSPACE = '[tool.uv.workspace]\nmembers = ["packages/*", "deep/**/x"]\nexclude = ["packages/old"]\n'


@pytest.mark.parametrize("git", [(), ("ws/.git/HEAD",)])
@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("ws/packages/app", "ws"),
        ("ws/deep/a/b/x", "ws"),
        ("ws/packages/old", "ws/packages/old"),
        ("ws/other", "ws/other"),
        ("ws/packages/app/inner", "ws/packages/app/inner"),
    ],
)
def test_a_member_of_a_uv_workspace_is_tested_within_the_workspace(
    tmp_path: Path, git: tuple[str, ...], folder: str, expected: str
) -> None:
    for name in (*git, f"{folder}/pyproject.toml", f"{folder}/tests/test_a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "ws/pyproject.toml").write_text(WORKSPACE)
    for start in (folder, f"{folder}/tests"):
        assert project_root(tmp_path / folder, tmp_path / start, tmp_path) == tmp_path / expected


def test_a_repository_of_its_own_is_no_member_of_what_lies_around_it(tmp_path: Path) -> None:
    for name in ("ws/packages/app/.git/HEAD", "ws/packages/app/pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "ws/pyproject.toml").write_text(WORKSPACE)
    app = tmp_path / "ws/packages/app"
    assert project_root(app, app, tmp_path) == app


def test_the_home_folder_is_never_sent_as_a_workspace(tmp_path: Path) -> None:
    app = tmp_path / "packages/app"
    app.mkdir(parents=True)
    (app / "pyproject.toml").touch()
    (tmp_path / "pyproject.toml").write_text(WORKSPACE)
    assert project_root(app, app, tmp_path) == app


def test_settings_of_a_member_are_named_because_they_are_not_read(tmp_path: Path) -> None:
    app = tmp_path / "packages/app"
    app.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(WORKSPACE)
    (app / "pyproject.toml").write_text('[project]\nname = "app"\n')
    assert uv_workspace.unread_settings(tmp_path, app) is None
    (app / "pyproject.toml").write_text('[tool.remote-ci]\npython = "3.12"\n')
    note = uv_workspace.unread_settings(tmp_path, app)
    assert note is not None
    assert note.startswith("packages/app/pyproject.toml: [tool.remote-ci] is not read")
    assert uv_workspace.unread_settings(app, app) is None
