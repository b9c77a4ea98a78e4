"""What travels beside a project: its named sources by their own rules, and nothing else."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_remote_ci.errors import WorkspaceError
from pytest_remote_ci.workspace import collect
from pytest_remote_ci.workspace.collect import Workspace
from pytest_remote_ci.workspace.path_sources import Outside


def make(folder: Path, *names: str, text: str = "x\n") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def gather(
    top: Path, *places: str, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()
) -> Workspace:
    outside = Outside(top, "proj", tuple(top / place if place else top for place in places))
    beside, _ = collect.collect_beside(outside, include=include, exclude=exclude)
    return replace(collect.collect(top / "proj", include=include, exclude=exclude), beside=beside)


def sent(workspace: Workspace) -> list[str]:
    return [entry.path for entry in workspace.manifest().files]


@pytest.fixture
def top(plain: Path) -> Path:
    make(plain, "proj/a.py", "lib/b.py", "lib/data/c.bin", "lib/x.log", "lib/__pycache__/b.pyc", "notes.txt")
    make(plain, "lib/.gitignore", text="*.log\n")
    make(plain, "private/key.txt")
    return plain


def test_only_the_named_folders_are_sent_by_their_own_ignore_files(top: Path) -> None:
    found = gather(top, "lib")
    assert sent(found) == ["lib/.gitignore", "lib/b.py", "lib/data/c.bin", "proj/a.py"]
    assert [file.path for file in found.files] == ["a.py"]
    assert [file.path for file in found.by_size()] == [
        "../lib/.gitignore",
        "../lib/b.py",
        "../lib/data/c.bin",
        "a.py",
    ]
    target = io.BytesIO()
    found.write_zip(target)
    assert zipfile.ZipFile(target).namelist() == sent(found)


def test_patterns_that_begin_with_the_folder_are_for_it(top: Path) -> None:
    found = gather(top, "lib", include=("../lib/x.log",), exclude=("../lib/data/", "/b.py"))
    assert sent(found) == ["lib/.gitignore", "lib/b.py", "lib/x.log", "proj/a.py"]
    assert sent(gather(top, "lib", exclude=("*.bin", "/a.py"))) == ["lib/.gitignore", "lib/b.py"]


def test_a_folder_around_the_project_adds_what_is_not_the_projects(top: Path) -> None:
    make(top / "proj", ".gitignore", text="ignored.txt\n")
    make(top / "proj", "ignored.txt")
    found = gather(top, "")
    assert "notes.txt" in sent(found)
    assert [path for path in sent(found) if path.startswith("proj/")] == ["proj/.gitignore", "proj/a.py"]


def test_links_empty_folders_and_single_files_travel(top: Path) -> None:
    (top / "lib/link").symlink_to("b.py")
    (top / "lib/empty").mkdir()
    manifest = gather(top, "lib", "notes.txt").manifest()
    assert (manifest.links, manifest.folders) == ({"lib/link": "b.py"}, ("lib/empty",))
    assert "notes.txt" in [entry.path for entry in manifest.files]


@pytest.mark.parametrize("place", ["lib", "lib/id_rsa"])
def test_a_secret_is_refused_by_name(top: Path, place: str) -> None:
    make(top, "lib/id_rsa")
    with pytest.raises(
        WorkspaceError, match=r"^\.\./lib.*, a dependency that travels (.|\n)*id_rsa looks like"
    ):
        gather(top, place)
    if place == "lib":
        assert "lib/id_rsa" in sent(gather(top, place, include=("../lib/id_rsa",)))


def test_a_link_out_of_the_folder_is_refused(top: Path) -> None:
    (top / "lib/link").symlink_to("../private")
    with pytest.raises(WorkspaceError, match=r"^\.\./lib, a dependency that travels .*link"):
        gather(top, "lib")


def test_too_much_is_refused_in_one_line_before_it_is_read(top: Path) -> None:
    with (top / "lib/huge.bin").open("wb") as file:
        file.truncate(collect.MAX_BESIDE + 1)
    with pytest.raises(
        WorkspaceError, match=r"^\.\./lib, .*: its files have 256(\.\d)? MiB, .* `exclude` [^\n]*$"
    ):
        gather(top, "lib")
    assert "lib/huge.bin" not in sent(gather(top, "lib", exclude=("../lib/huge.bin",)))
