"""Outside git: everything but what tools write and what is ignored; modes, choosing, listing."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_remote_ci.errors import WorkspaceError
from pytest_remote_ci.workspace import collect, symlinks


def make(folder: Path, *names: str, text: str = "x\n") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def paths(root: Path, **options: Any) -> list[str]:
    return [file.path for file in collect.collect(root, **options).files]


class TestOutsideGit:
    """Without git: everything but what tools write and what ignore files and `exclude` name."""

    @pytest.mark.case(61, 62, 63, 64, 65)
    def test_everything_travels_but_caches_environments_and_outputs(self, plain: Path) -> None:
        """Files that begin with a dot travel, unlike in earlier clients: suites need .coveragerc and .env.test."""
        make(
            plain,
            "a.py",
            ".coveragerc",
            ".env.test",
            ".github/x.yml",
            "deep/er/and/deeper/b.py",
            "pkg/build/c.py",
        )
        make(
            plain,
            "__pycache__/a.pyc",
            "pkg/__pycache__/b.pyc",
            ".pytest_cache/x",
            ".mypy_cache/x",
            ".ruff_cache/x",
        )
        make(
            plain,
            ".tox/x",
            ".nox/x",
            "node_modules/x",
            "build/x",
            "dist/x",
            "src/p.egg-info/PKG-INFO",
            ".hg/x",
        )
        make(
            plain,
            ".venv/pyvenv.cfg",
            ".venv/x.py",
            "deep/env/pyvenv.cfg",
            "deep/env/x.py",
            ".svn/x",
            ".DS_Store",
        )
        assert paths(plain) == [
            ".coveragerc",
            ".env.test",
            ".github/x.yml",
            "a.py",
            "deep/er/and/deeper/b.py",
            "pkg/build/c.py",
        ]

    def test_a_root_folder_build_that_is_a_package_travels(self, plain: Path) -> None:
        make(plain, "build/__init__.py", "build/x.py")
        assert paths(plain) == ["build/__init__.py", "build/x.py"]

    def test_only_the_ignore_file_in_the_root_counts(self, plain: Path) -> None:
        """An unpacked release holds what its author shipped, whatever the ignore files in its folders say."""
        make(
            plain, "a.log", "keep.log", "sub/b.log", "sub/c.txt", "out/x", "sub/out/y", "tests/data/made.bin"
        )
        make(plain, ".gitignore", text="*.log\n!keep.log\n/out/\n")
        make(plain, "sub/.gitignore", text="!b.log\nc.txt\n")
        make(plain, "tests/data/.gitignore", text="*\n!.gitignore\n")
        assert paths(plain) == [
            ".gitignore",
            "keep.log",
            "sub/.gitignore",
            "sub/c.txt",
            "sub/out/y",
            "tests/data/.gitignore",
            "tests/data/made.bin",
        ]

    def test_a_source_distribution_travels_as_its_author_shipped_it(self, plain: Path) -> None:
        make(
            plain, "PKG-INFO", "p/_version.py", "p/de.mo", "p/__pycache__/x.pyc", "build/x", "p/x.egg-info/y"
        )
        make(plain, ".gitignore", text="_version.py\n*.mo\n")
        assert paths(plain) == [".gitignore", "PKG-INFO", "p/_version.py", "p/de.mo"]

    @pytest.mark.parametrize("text", ["*\n", "# Created by coverage.py\n*\n", "/**\n"])
    def test_a_folder_that_ignores_itself_is_the_output_of_a_tool(self, plain: Path, text: str) -> None:
        make(plain, "a.py", "sub/htmlcov/index.html", "sub/htmlcov/deep/x")
        make(plain, "sub/htmlcov/.gitignore", text=text)
        assert paths(plain) == ["a.py"]
        assert paths(plain, include=["/sub/htmlcov/*.html"]) == ["a.py", "sub/htmlcov/index.html"]

    def test_a_source_distribution_can_hold_such_a_folder(self, plain: Path) -> None:
        """Babel's locale data: made by its build. What a tool made here since it was unpacked stays."""
        make(plain, "PKG-INFO", "p/data/aa.dat", "htmlcov/index.html")
        make(plain, "p/data/.gitignore", "htmlcov/.gitignore", text="*\n")
        released = (plain / "PKG-INFO").stat().st_mtime - 1_000_000
        for name in ("PKG-INFO", "p/data/.gitignore"):
            os.utime(plain / name, (released, released))
        assert paths(plain) == ["PKG-INFO", "p/data/.gitignore", "p/data/aa.dat"]

    @pytest.mark.parametrize("text", ["*\n!shipped\n", ".gitignore\n*.log\n"])
    def test_a_folder_that_does_not_ignore_all_of_itself_travels(self, plain: Path, text: str) -> None:
        make(plain, "data/shipped")
        make(plain, "data/.gitignore", text=text)
        assert paths(plain) == ["data/.gitignore", "data/shipped"]

    def test_exclude_counts_and_include_brings_back(self, plain: Path) -> None:
        make(plain, "a.py", "big/x.bin", "big/y.bin", "build/z.so", "node_modules/m/index.js")
        make(plain, ".gitignore", text="a.py\n")
        assert paths(plain, exclude=["big/", ".gitignore"]) == []
        assert paths(
            plain, exclude=["big/"], include=["/big/y.bin", "build/*.so", "a.py", "node_modules/m/"]
        ) == [".gitignore", "a.py", "big/y.bin", "build/z.so", "node_modules/m/index.js"]

    @pytest.mark.defect("A9")
    def test_a_hidden_folder_above_the_project_does_not_matter(self, tmp_path: Path) -> None:
        root = tmp_path / ".hidden" / "__pycache__" / "build"
        make(root, "a.py", "sub/b.py")
        assert paths(root) == ["a.py", "sub/b.py"]

    @pytest.mark.case(67)
    def test_an_empty_project_gives_an_empty_workspace(self, plain: Path) -> None:
        found = collect.collect(plain)
        assert (found.files, found.size, list(found.listing())) == ((), 0, ["       0 B  in 0 files"])

    def test_sockets_and_pipes_stay_here(self, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make(plain, "a.py")
        os.mkfifo(plain / "pipe")
        monkeypatch.chdir(plain)  # the address of a socket must be short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
            assert paths(plain) == ["a.py"]

    def test_a_missing_folder_is_an_error(self, plain: Path) -> None:
        with pytest.raises(WorkspaceError, match="no such folder"):
            collect.collect(plain / "missing")

    def test_what_cannot_be_read_is_named_and_can_be_left_out(self, unprivileged: Path) -> None:
        make(unprivileged, "a.py", "locked.txt", "closed/b.py")
        (unprivileged / "locked.txt").chmod(0)
        with pytest.raises(
            WorkspaceError, match=r'locked.txt: cannot be read .* exclude = \["/locked.txt"\]'
        ):
            collect.collect(unprivileged)
        (unprivileged / "closed").chmod(0)
        with pytest.raises(WorkspaceError, match=r'closed: cannot be read .* exclude = \["closed/"\]'):
            collect.collect(unprivileged)
        assert paths(unprivileged, exclude=["closed/", "/locked.txt"]) == ["a.py"]

    @pytest.mark.skipif(os.name == "nt", reason="names are text on Windows")
    def test_a_name_that_is_no_utf_8_is_refused_by_name(self, plain: Path) -> None:
        make(plain, "a.py")
        with Path(os.fsdecode(os.fsencode(plain) + b"/bad-\xff.txt")).open("w"):
            pass
        with pytest.raises(WorkspaceError, match=r"not UTF-8 .*: bad-\\xff.txt; .*exclude = \[\"/bad-\*\"\]"):
            collect.collect(plain)
        assert paths(plain, exclude=["/bad-*"]) == ["a.py"]

    @pytest.mark.skipif(os.name == "nt", reason="Windows takes no such names")
    @pytest.mark.parametrize(
        "char", ["\n", "\x1b", "\x7f", "\x9b", "\u202e", "\u2066", "\u200f", "\u061c", "\u2028"]
    )
    def test_a_name_with_a_control_character_is_refused_in_one_line(self, plain: Path, char: str) -> None:
        make(plain, "a.py", f"d/x{char}y[z].py")
        with pytest.raises(WorkspaceError) as caught:
            collect.collect(plain)
        text = str(caught.value)
        assert text.isprintable()
        assert f"{ord(char):02x} y".replace(" ", "") in text or "\\ny" in text
        pattern = re.search(r'exclude = \["(.*)"\]', text)
        assert pattern is not None
        assert paths(plain, exclude=[pattern[1].replace("\\\\", "\\")]) == ["a.py"]


class TestModes:
    """Only the executable bit travels."""

    def test_executable_bits_are_kept(self, plain: Path) -> None:
        make(plain, "script", "data", "group")
        (plain / "script").chmod(0o700)
        (plain / "data").chmod(0o600)
        (plain / "group").chmod(0o654)
        modes = {file.path: file.mode for file in collect.collect(plain).files}
        assert modes == {"script": 0o755, "data": 0o644, "group": 0o644}


class TestChoosing:
    """Plugins change which files travel."""

    def test_files_are_removed_and_added(self, repository: Path) -> None:
        make(repository, "a.py", "b.py", "ignored.log")
        make(repository, ".gitignore", text="*.log\n")
        chosen = collect.collect(repository).choose(["a.py", "ignored.log"])
        assert [file.path for file in chosen.files] == ["a.py", "ignored.log"]
        assert [entry.path for entry in chosen.manifest().files] == ["a.py", "ignored.log"]

    @pytest.mark.parametrize(
        "path", ["missing", "folder", "../outside", "/etc/hostname", "folder/../a.py", ""]
    )
    def test_what_is_no_file_of_the_project_cannot_be_added(self, plain: Path, path: str) -> None:
        make(plain, "a.py", "folder/x", "../outside")
        with pytest.raises(WorkspaceError, match="cannot be added"):
            collect.collect(plain).choose(["a.py", path])

    def test_a_secret_cannot_be_added(self, repository: Path) -> None:
        make(repository, "id_rsa")
        make(repository, ".gitignore", text="id_rsa\n")
        with pytest.raises(WorkspaceError, match="id_rsa looks like"):
            collect.collect(repository).choose(["id_rsa"])
        allowed = collect.collect(repository, include=["/id_rsa"])
        assert [file.path for file in allowed.choose(["id_rsa"]).files] == ["id_rsa"]


def test_the_listing_is_largest_first_with_the_sum(plain: Path) -> None:
    make(plain, "small", text="x")
    make(plain, "also small", text="x")
    make(plain, "large", text="x" * 1_234_567)
    assert list(collect.collect(plain).listing()) == [
        "   1.2 MiB  large",
        "       1 B  also small",
        "       1 B  small",
        "   1.2 MiB  in 3 files",
    ]


def test_modes_of_files_on_disk_are_not_changed(plain: Path) -> None:
    make(plain, "a.py")
    (plain / "a.py").chmod(0o600)
    collect.collect(plain)
    assert stat.S_IMODE((plain / "a.py").stat().st_mode) == 0o600


def test_a_file_that_goes_away_while_it_is_read_is_left_out(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(plain, "a.py", "gone.py")
    original: Callable[..., object] = symlinks.find

    def vanish(*arguments: Any, **options: Any) -> object:
        found = original(*arguments, **options)
        (plain / "gone.py").unlink()
        return found

    monkeypatch.setattr(collect, "find", vanish)
    assert paths(plain) == ["a.py"]
