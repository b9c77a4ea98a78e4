"""In a git work tree: what git does not ignore, as it is on disk now."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pytest_remote_ci.errors import WorkspaceError
from pytest_remote_ci.workspace import collect

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *arguments], cwd=folder, check=True, capture_output=True
    )


def make(folder: Path, *names: str, text: str = "x\n") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def paths(root: Path, **options: Any) -> list[str]:
    return [file.path for file in collect.collect(root, **options).files]


@needs_git
class TestInGit:
    """In a git work tree: what git does not ignore, as it is on disk now."""

    def test_tracked_and_untracked_files_travel_and_ignored_ones_do_not(self, repository: Path) -> None:
        make(repository, "a.py", "gone.py", ".coveragerc", "ignored.log", "sub/b.py")
        make(repository, ".gitignore", text="*.log\n")
        git(repository, "add", "-A")
        make(repository, "new.py", "a.py", text="changed")
        (repository / "gone.py").unlink()
        assert paths(repository) == [".coveragerc", ".gitignore", "a.py", "new.py", "sub/b.py"]
        found = {file.path: file for file in collect.collect(repository).files}
        assert found["a.py"].size == len("changed")

    def test_a_tracked_file_travels_although_a_pattern_ignores_it(self, repository: Path) -> None:
        make(repository, "kept.log")
        git(repository, "add", "-A")
        make(repository, ".gitignore", text="*.log\n")
        make(repository, "other.log")
        assert paths(repository) == [".gitignore", "kept.log"]

    def test_ignores_of_the_repository_alone_count(self, repository: Path) -> None:
        make(repository, "a.py", "private.txt")
        make(repository, ".git/info/exclude", text="private.txt\n")
        assert paths(repository) == ["a.py"]

    def test_a_folder_below_the_top_level_is_a_project_of_its_own(self, repository: Path) -> None:
        make(repository, "other/a.py", "mine/b.py", "mine/c.tmp")
        make(repository, ".gitignore", text="*.tmp\n")
        git(repository, "add", "-A")
        assert paths(repository / "mine") == ["b.py"]

    def test_odd_names_are_kept(self, repository: Path) -> None:
        names = [
            "a b.py",
            "quote'\".py",
            "ünï.py",
            "emoji-\U0001f468\u200d\U0001f469.py",
            "narrow\u202fspace.py",
            "-dash.py",
            "tracked'\".py",
        ]
        make(repository, names[-1])
        git(repository, "add", "-A")
        make(repository, *names)
        assert paths(repository) == sorted(names)

    def test_line_breaks_in_names_are_read_right_and_refused(self, repository: Path) -> None:
        make(repository, "tracked\nline.py", "a.py")
        git(repository, "add", "-A")
        make(repository, "new\nline.py")
        with pytest.raises(
            WorkspaceError, match=r"^new\\nline.py \(and 1 more\) cannot be sent: it has a control"
        ):
            paths(repository)

    def test_unmerged_files_travel_once(self, repository: Path) -> None:
        make(repository, "a.py", text="base")
        git(repository, "add", "-A")
        git(repository, "commit", "-qm", "base")
        git(repository, "checkout", "-qb", "other")
        make(repository, "a.py", text="other")
        git(repository, "commit", "-qam", "other")
        git(repository, "checkout", "-q", "-")
        make(repository, "a.py", text="mine")
        git(repository, "commit", "-qam", "mine")
        subprocess.run(["git", "merge", "-q", "other"], cwd=repository, check=False, capture_output=True)
        assert paths(repository) == ["a.py"]

    def test_submodules_travel_with_their_own_ignores(self, repository: Path, tmp_path: Path) -> None:
        module = tmp_path / "module"
        module.mkdir()
        git(module, "init", "-q")
        make(module, "m.py", "deep/n.py")
        make(module, ".gitignore", text="*.log\n")
        git(module, "add", "-A")
        git(module, "commit", "-qm", "m")
        git(repository, "submodule", "add", "-q", str(module), "vendor/module")
        make(repository, "vendor/module/new.py", "vendor/module/x.log", "a.log")
        assert paths(repository) == [
            ".gitmodules",
            "a.log",
            "vendor/module/.gitignore",
            "vendor/module/deep/n.py",
            "vendor/module/m.py",
            "vendor/module/new.py",
        ]

    def test_a_submodule_that_is_not_checked_out_is_said(self, repository: Path, tmp_path: Path) -> None:
        self.test_submodules_travel_with_their_own_ignores(repository, tmp_path)
        git(repository, "commit", "-qam", "module")
        git(tmp_path, "clone", "-q", str(repository), "clone")
        found = collect.collect(tmp_path / "clone")
        assert [file.path for file in found.files] == [".gitmodules"]
        assert found.warnings == (
            "submodule vendor/module is empty here; fetch it with: git submodule update --init",
        )

    def test_untracked_repositories_inside_travel(self, repository: Path) -> None:
        make(repository, "a.py", "nested/b.py", "nested/c.tmp")
        git(repository / "nested", "init", "-q")
        make(repository, "nested/.gitignore", text="*.tmp\n")
        assert paths(repository) == ["a.py", "nested/.gitignore", "nested/b.py"]

    def test_untracked_environments_and_caches_stay_here(self, repository: Path) -> None:
        make(
            repository,
            "a.py",
            "venv/pyvenv.cfg",
            "venv/lib/x.py",
            "pkg/__pycache__/a.pyc",
            ".mypy_cache/x.json",
        )
        make(repository, "tests/corpus/pyvenv.cfg", "tests/corpus/.tox/x")
        git(repository, "add", "a.py", "tests")
        assert paths(repository) == ["a.py", "tests/corpus/.tox/x", "tests/corpus/pyvenv.cfg"]

    def test_exclude_counts_and_include_brings_back(self, repository: Path) -> None:
        make(repository, "a.py", "docs/big.bin", "docs/keep.md", "build/lib.so", "data/x/y.dat", "data/z.tmp")
        make(repository, ".gitignore", text="build/\ndata/\n")
        git(repository, "add", "-A")
        assert paths(repository, exclude=["docs/"]) == [".gitignore", "a.py"]
        assert paths(repository, exclude=["docs/", "!docs/"]) == [
            ".gitignore",
            "a.py",
            "docs/big.bin",
            "docs/keep.md",
        ]
        assert paths(repository, exclude=["docs/*"], include=["docs/keep.md", "*.so", "/data/x/"]) == [
            ".gitignore",
            "a.py",
            "build/lib.so",
            "data/x/y.dat",
            "docs/keep.md",
        ]

    def test_include_does_not_search_environments_it_does_not_name(self, repository: Path) -> None:
        make(repository, ".gitignore", text="*\n")
        make(repository, "x.so", ".venv/pyvenv.cfg", ".venv/y.so", ".git/z.so", "pkg/__pycache__/w.so")
        assert paths(repository, include=["*.so"]) == ["x.so"]
        assert paths(repository, include=[".venv/y.so"]) == [".venv/y.so"]

    def test_a_project_that_a_work_tree_around_it_ignores_is_read_from_disk(self, repository: Path) -> None:
        make(repository, ".gitignore", text="*\n")
        make(repository, "scratch/a.py", "scratch/.pytest_cache/x")
        assert paths(repository / "scratch") == ["a.py"]

    def test_a_folder_that_became_a_link_is_a_link(self, repository: Path) -> None:
        make(repository, "data/x.txt", "real/x.txt")
        git(repository, "add", "-A")
        shutil.rmtree(repository / "data")
        (repository / "data").symlink_to("real")
        found = collect.collect(repository)
        assert [file.path for file in found.files] == ["real/x.txt"]
        assert found.links == {"data": "real"}

    def test_a_hook_of_git_does_not_mislead(
        self, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(repository, "a.py")
        monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
        monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
        assert paths(repository) == ["a.py"]

    def test_without_a_git_program_the_ignore_files_count_and_it_is_said(
        self, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(repository, "sub/a.py", "sub/a.log", "sub/only.txt")
        make(repository, "sub/deep/b.py", "sub/deep/b.bin")
        make(repository, ".gitignore", text="*.log\n/sub/only.txt\n")
        make(repository, "sub/deep/.gitignore", text="*\n!*.py\n")
        monkeypatch.setenv("PATH", "")
        found = collect.collect(repository / "sub")
        assert [file.path for file in found.files] == ["a.py", "deep/b.py"]
        assert found.warnings == (
            "git is not installed: sending everything except caches and what .gitignore ignores",
        )

    def test_a_work_tree_that_git_refuses_is_read_from_disk_and_it_is_said(self, repository: Path) -> None:
        make(repository, "a.py")
        (repository / ".git" / "HEAD").write_text("broken")
        found = collect.collect(repository)
        assert [file.path for file in found.files] == ["a.py"]
        assert "not a git repository" in found.warnings[0]
