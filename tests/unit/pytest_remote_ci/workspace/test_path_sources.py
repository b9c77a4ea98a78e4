"""Dependencies in folders of the developer's machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_remote_ci.errors import WorkspaceError
from pytest_remote_ci.workspace import path_sources

PROJECT = '[project]\nname = "proj"\nversion = "1"\ndependencies = ["plib"]\n'
OUTSIDE = [
    pytest.param(PROJECT + '[tool.uv.sources]\nplib = {path = "../lib", editable = true}\n', id="uv"),
    pytest.param(
        PROJECT.replace("plib", "P_Lib") + '[tool.uv.sources]\np-lib = [{path = "../lib"}]\n',
        id="another spelling",
    ),
    pytest.param(
        '[dependency-groups]\ndev = ["plib"]\n[tool.uv.sources]\nplib = {path = "../lib"}\n',
        id="a usual group",
    ),
    pytest.param(
        '[dependency-groups]\nqa = ["plib"]\n[tool.uv]\ndefault-groups = ["qa"]\n'
        'sources.plib = {path = "../lib"}\n',
        id="a default group",
    ),
    pytest.param('[tool.poetry.dependencies]\nplib = {path = "../lib", develop = true}\n', id="Poetry"),
    pytest.param('[tool.poetry.group.test.dependencies]\nplib = {path = "../lib"}\n', id="a group of Poetry"),
    pytest.param('[project]\ndependencies = ["plib @ file:../lib"]\n', id="a direct reference"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("proj", "lib", "proj/vendored"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyproject.toml").touch()
    return tmp_path / "proj"


@pytest.mark.parametrize("text", OUTSIDE)
def test_a_folder_outside_of_the_project_is_refused_by_name(root: Path, text: str) -> None:
    (root / "pyproject.toml").write_text(text)
    with pytest.raises(WorkspaceError, match=r"(?i)^p.?lib is taken from \.\./lib .* outside of the project"):
        path_sources.refuse_missing(root, {"pyproject.toml"})


def test_a_folder_of_which_nothing_is_sent_is_refused_by_name(root: Path) -> None:
    (root / "pyproject.toml").write_text(PROJECT + '[tool.uv.sources]\nplib = {path = "vendored"}\n')
    path_sources.refuse_missing(root, {"pyproject.toml", "vendored/pyproject.toml"})
    with pytest.raises(WorkspaceError, match=r'plib is taken from vendored, .*include = \["/vendored/"\]'):
        path_sources.refuse_missing(root, {"pyproject.toml"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[project",
        PROJECT,
        PROJECT + "[tool.uv.sources]\nplib = {workspace = true}\n",
        PROJECT + '[tool.uv.sources]\nother = {path = "../lib"}\n',
        PROJECT + '[tool.uv.sources]\nplib = {path = "../lib", marker = "os_name == \'nt\'"}\n',
        '[dependency-groups]\nunused = ["plib"]\n[tool.uv.sources]\nplib = {path = "../lib"}\n',
        '[tool.poetry.dependencies]\nplib = {path = "../lib", optional = true}\n',
        '[tool.poetry.dependencies]\nplib = {path = "."}\n',
        "project = 7\ntool = 7",
        "[project]\ndependencies = 7\n[tool.uv]\nsources = 7\ndefault-groups = 7",
        "[project]\ndependencies = [7]\n[tool.uv.sources]\nplib = 7\n[tool.poetry]\ngroup = 7",
    ],
)
def test_what_a_job_does_not_need_is_not_refused(root: Path, text: str) -> None:
    (root / "pyproject.toml").write_text(text)
    path_sources.refuse_missing(root, {"pyproject.toml"})
