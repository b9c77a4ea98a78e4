"""The version that git would give, compared with what setuptools-scm itself says."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_remote_ci.workspace import scm_version

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

TODAY = dt.datetime.now(dt.timezone.utc).date()
PYPROJECT = '[build-system]\nrequires = ["setuptools", "setuptools-scm"]\n[tool.setuptools_scm]\n'


def git(folder: Path, *arguments: str) -> str:
    """Run git as somebody, without any configuration of the machine."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.com",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.com",
    }
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for name in ("SETUPTOOLS_SCM_PRETEND_VERSION", "SOURCE_DATE_EPOCH"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PYPROJECT)
    git(folder, "init", "-q")
    return folder


def commit(folder: Path, text: str = "x") -> None:
    (folder / "file.txt").write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", text)


def reference(folder: Path) -> str:
    """What setuptools-scm says, in a process of its own (it warns and caches)."""
    from sys import executable

    done = subprocess.run(
        [
            executable,
            "-W",
            "ignore",
            "-c",
            "import setuptools_scm; print(setuptools_scm.get_version(root='.'))",
        ],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.mark.sampled(10)
@pytest.mark.parametrize(
    "tag",
    [
        "v1.2.3",
        "1.2",
        "1.0rc1",
        "v2.0.0-beta.2",
        "project-3.1",
        "1.0.post1",
        "1.1.dev0",
        "v1!2.0",
        "2024.01.05",
        "1.2.3.4",
    ],
)
@pytest.mark.parametrize("state", ["exact", "later", "dirty", "later and dirty"])
def test_tags_give_what_setuptools_scm_gives(project: Path, tag: str, state: str) -> None:
    commit(project)
    git(project, "tag", tag)
    if "later" in state:
        commit(project, "more")
        commit(project, "even more")
    if "dirty" in state:
        (project / "file.txt").write_text("changed")
    assert scm_version.version(project, environ={}) == reference(project)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("commits", [0, 1, 3])
@pytest.mark.parametrize("dirty", [False, True])
def test_without_a_tag_the_version_counts_commits(project: Path, commits: int, dirty: bool) -> None:
    for number in range(commits):
        commit(project, str(number))
    if dirty:
        (project / "file.txt").write_text("changed")
        git(project, "add", "-A")
    assert scm_version.version(project, environ={}) == reference(project)


def test_a_shallow_clone_gives_what_setuptools_scm_gives(project: Path, tmp_path: Path) -> None:
    commit(project)
    git(project, "tag", "v1.0")
    commit(project, "more")
    git(tmp_path, "clone", "-q", "--depth=1", project.as_uri(), "shallow")
    assert scm_version.version(tmp_path / "shallow", environ={}) == reference(tmp_path / "shallow")


def test_a_project_below_the_top_level_gets_the_version_of_the_work_tree(project: Path) -> None:
    commit(project)
    git(project, "tag", "v1.0")
    below = project / "below"
    below.mkdir()
    (below / "setup.py").write_text(
        "setup(use_scm_version={'root': '..'}, setup_requires=['setuptools_scm'])"
    )
    assert scm_version.version(below, environ={}) is None  # not part of the work tree yet
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "below")
    git(project, "tag", "v1.1")
    assert scm_version.version(below, environ={}) == "1.1"


def test_outside_git_there_is_no_version(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    assert scm_version.version(tmp_path, environ={}) is None


def test_a_pretended_version_wins(project: Path) -> None:
    assert scm_version.version(project, environ={"SETUPTOOLS_SCM_PRETEND_VERSION": "9.9"}) == "9.9"


def test_a_tag_that_is_no_version_gives_none(project: Path) -> None:
    commit(project)
    git(project, "tag", "build-of-1st-day")
    assert scm_version.version(project, environ={}) is None


def test_the_date_of_a_changed_tree_is_today(project: Path) -> None:
    commit(project)
    git(project, "tag", "v1.0")
    (project / "file.txt").write_text("changed")
    given = scm_version.version(project, environ={}, today=dt.date(2024, 2, 3))
    assert given is not None
    assert given.startswith("1.1.dev0+g")
    assert given.endswith(".d20240203")


def test_a_hook_of_git_does_not_mislead(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(project)
    git(project, "tag", "v1.0")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert scm_version.version(project, environ={}) == "1.0"


@pytest.mark.parametrize(
    ("file", "text", "wanted"),
    [
        ("pyproject.toml", 'requires = ["setuptools_scm[toml]>=6.2"]', True),
        ("pyproject.toml", 'requires = ["hatchling", "hatch-vcs"]', True),
        ("pyproject.toml", '[tool.pdm.version]\nsource = "scm"', True),
        ("pyproject.toml", "[tool.versioningit]", True),
        ("setup.py", 'setup(setup_requires=["pbr"], pbr=True)', True),
        ("setup.py", "import versioneer", True),
        ("setup.cfg", "[versioneer]\nVCS = git", True),
        ("pyproject.toml", 'requires = ["poetry-core", "poetry-dynamic-versioning"]', True),
        ("pyproject.toml", 'requires = ["setuptools"]\nversion = "1.0"', False),
        ("setup.cfg", "[metadata]\nname = pbrx", False),
        ("other.txt", "setuptools_scm", False),
    ],
)
def test_only_projects_that_take_their_version_from_git_are_asked(
    tmp_path: Path, file: str, text: str, wanted: bool
) -> None:
    (tmp_path / file).write_text(text)
    assert scm_version.wants_version(tmp_path) is wanted


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("v1.02.3", "1.2.3"),
        ("1.0-ALPHA_2", "1.0a2"),
        ("1.0c", "1.0rc0"),
        ("1.0-1", "1.0.post1"),
        ("1.0.r4", "1.0.post4"),
        ("1.0preview1.dev", "1.0rc1.dev0"),
        ("0!1.0", "1.0"),
        ("2!1.0+local", "2!1.0"),
        ("one", None),
        ("1.0 final", None),
    ],
)
def test_versions_are_normalised(text: str, normal: str | None) -> None:
    assert scm_version.normalise(text) == normal
