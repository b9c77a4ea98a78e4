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
def test_a_folder_beside_the_project_is_found(root: Path, text: str) -> None:
    (root / "pyproject.toml").write_text(text)
    found = path_sources.outside(root)
    assert found == path_sources.Outside(root.parent, "proj", (root.parent / "lib",))


@pytest.mark.parametrize(
    "line",
    [
        "-e ../lib",
        "--editable=../lib",
        "-e '../lib[extra]'",
        "../lib/ ; python_version > '3'",
        "-e ../lib#egg=lib  # comment",
        "file:../lib",
        "-e file:///${PROJECT_ROOT}/../lib#egg=lib",
        "-r requirements/nested.txt",
    ],
)
def test_a_line_of_a_requirements_file_is_found(root: Path, line: str) -> None:
    (root / "requirements").mkdir()
    (root / "requirements/nested.txt").write_text("pytest\n../lib\n" if "nested" in line else "pytest\n")
    (root / "requirements/docs.txt").write_text("../missing\n")
    (root / "requirements.txt").write_text(f"pytest>=7\n{line}\n")
    assert path_sources.outside(root).places == (root.parent / "lib",)
    (root / "uv.lock").touch()
    assert path_sources.outside(root).places == ()
    chosen = path_sources.Choice(requirements=("requirements.txt",))
    assert path_sources.outside(root, chosen).places == (root.parent / "lib",)


def test_what_sources_take_from_beside_themselves_is_found(root: Path) -> None:
    (root / "pyproject.toml").write_text(PROJECT + '[tool.uv.sources]\nplib = {path = "../lib"}\n')
    (root.parent / "deep/base").mkdir(parents=True)
    circle = '[project]\ndependencies = ["base", "proj"]\n[tool.uv.sources]\nbase = {path = "../deep/base"}\n'
    (root.parent / "lib/pyproject.toml").write_text(circle + 'proj = {path = "../proj"}\n')
    assert path_sources.outside(root).places == (root.parent / "lib", root.parent / "deep/base")


def test_a_source_above_and_a_file_are_found(root: Path) -> None:
    (root.parent / "x-1-py3-none-any.whl").touch()
    (root / "pyproject.toml").write_text(
        '[project]\ndependencies = ["plib @ file:..", "x @ file:../x-1-py3-none-any.whl"]\n'
    )
    assert path_sources.outside(root) == path_sources.Outside(
        root.parent, "proj", (root.parent, root.parent / "x-1-py3-none-any.whl")
    )


def test_chosen_groups_and_extras_count(root: Path) -> None:
    (root / "pyproject.toml").write_text(
        '[dependency-groups]\nqa = ["plib"]\n[tool.uv.sources]\nplib = {path = "../lib"}\n'
    )
    assert path_sources.outside(root).places == ()
    assert path_sources.outside(root, path_sources.Choice(groups=("qa",))).places == (root.parent / "lib",)


def test_a_source_that_does_not_exist_is_refused_by_name(root: Path) -> None:
    (root / "pyproject.toml").write_text(PROJECT + '[tool.uv.sources]\nplib = {path = "../none"}\n')
    with pytest.raises(
        WorkspaceError, match=r"^plib is taken from ../none \(in .*\), which does not exist, so nothing"
    ):
        path_sources.outside(root)


@pytest.mark.parametrize(("path", "home"), [("../lib", "."), ("../lib", "user"), ("/etc", "elsewhere/user")])
def test_the_home_folder_and_what_is_above_are_never_sent(root: Path, path: str, home: str) -> None:
    (root / "pyproject.toml").write_text(PROJECT + f'[tool.uv.sources]\nplib = {{path = "{path}"}}\n')
    with pytest.raises(
        WorkspaceError, match=r"^plib is taken from .* has only /.* in common with the project .* nothing"
    ):
        path_sources.outside(root, home=root.parent / home)


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
    assert path_sources.outside(root) == path_sources.Outside(root)
