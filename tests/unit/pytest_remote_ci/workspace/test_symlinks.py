"""Links travel as links or, for archives and where their targets do not travel, as what they point to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pytest_remote_ci.errors import WorkspaceError
from pytest_remote_ci.workspace import collect


def make(folder: Path, *names: str, text: str = "x\n") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


class TestLinks:
    """Links within the project stay links."""

    def test_links_to_what_is_sent_travel_as_links(self, either: Path) -> None:
        make(either, "real/a.txt", "real/sub/b.txt")
        links = {
            "file": "real/a.txt",
            "folder": "real",
            "real/sub/up": "../..",
            "real/sub/beside": "../a.txt",
            "through": "folder/sub/b.txt",
            "chain": "file",
            "around": "folder/../real/a.txt",
            "root": ".",
            "broken": "nowhere",
            "real/broken": "../no/such/file",
            "loop": "loop",
        }
        for path, target in links.items():
            (either / path).symlink_to(target)
        (either / "absolute").symlink_to(either / "real" / "a.txt")
        (either / "real" / "sub" / "absolute").symlink_to(either)
        found = collect.collect(either)
        assert found.links == {**links, "absolute": "real/a.txt", "real/sub/absolute": "../.."}
        assert [file.path for file in found.files] == ["real/a.txt", "real/sub/b.txt"]
        assert found.warnings == ()
        assert found.manifest().links == found.links
        assert "      link  chain -> file" in list(found.listing())

    def test_a_link_to_what_is_not_sent_travels_as_a_copy(self, either: Path) -> None:
        make(either, "ignored/x.txt", "a.txt")
        make(either, ".gitignore", text="ignored/\nhidden\n")
        (either / "hidden").symlink_to("a.txt")
        (either / "file").symlink_to("ignored/x.txt")
        (either / "second").symlink_to("file")
        (either / "by-hidden").symlink_to("hidden")
        found = collect.collect(either)
        assert found.links == {}
        assert [file.path for file in found.files] == [".gitignore", "a.txt", "by-hidden", "file", "second"]

    def test_a_link_out_of_the_project_to_nothing_is_left_out_and_said(self, either: Path) -> None:
        make(either, "a.txt")
        (either / "absolute").symlink_to("/no/such/file")
        (either / "relative").symlink_to("../nowhere")
        found = collect.collect(either)
        assert found.links == {}
        assert sorted(found.warnings) == [
            "absolute: left out, because the link points to nothing",
            "relative: left out, because the link points to nothing",
        ]

    def test_a_changed_target_is_another_workspace(self, either: Path) -> None:
        make(either, "a.txt", "b.txt")
        (either / "link").symlink_to("a.txt")
        before = collect.collect(either).manifest().canonical()
        (either / "link").unlink()
        (either / "link").symlink_to("b.txt")
        assert collect.collect(either).manifest().canonical() != before

    def test_empty_folders_travel(self, either: Path) -> None:
        for folder in ("empty", "a/b/c", "ignored", "new/empty", "new/__pycache__", "excluded/empty"):
            (either / folder).mkdir(parents=True)
        make(either, "new/a.txt")
        make(either, ".gitignore", text="ignored/\n")
        found = collect.collect(either, exclude=["/excluded/"])
        assert found.folders == ("a/b/c", "empty", "new/empty")
        assert found.manifest().folders == found.folders

    def test_read_only_files_travel_as_such(self, either: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        for number, mode in enumerate((0o644, 0o664, 0o600, 0o444, 0o400, 0o755, 0o555, 0o500)):
            make(either, f"{number}.txt")
            (either / f"{number}.txt").chmod(mode)
        found = collect.collect(either)
        modes = [oct(file.mode) for file in found.files]
        assert modes == ["0o644", "0o644", "0o644", "0o444", "0o444", "0o755", "0o555", "0o555"]
        assert [oct(entry.mode) for entry in found.manifest().files] == modes
        assert found.needs_manifest

    def test_root_can_write_to_read_only_files_there_as_here(
        self, either: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        for name, mode in (("data", 0o444), ("program", 0o555)):
            make(either, name)
            (either / name).chmod(mode)
        assert [oct(file.mode) for file in collect.collect(either).files] == ["0o644", "0o755"]


def copies(root: Path, **options: Any) -> list[str]:
    return [file.path for file in collect.collect(root, copy_links=True, **options).files]


class TestCopies:
    """An archive has what links point to in their places."""

    def test_links_to_files_and_folders_travel_as_their_contents(self, either: Path) -> None:
        make(either, "real/a.txt", "real/sub/b.txt", text="content")
        (either / "real" / "a.txt").chmod(0o755)
        (either / "file").symlink_to("real/a.txt")
        (either / "absolute").symlink_to(either / "real" / "a.txt")
        (either / "folder").symlink_to("real")
        found = {file.path: file for file in collect.collect(either, copy_links=True).files}
        assert sorted(found) == [
            *("absolute", "file", "folder/a.txt", "folder/sub/b.txt", "real/a.txt", "real/sub/b.txt")
        ]
        assert found["file"].sha256 == found["real/a.txt"].sha256 == found["folder/a.txt"].sha256
        assert found["file"].mode == 0o755

    def test_links_through_links_are_followed(self, either: Path) -> None:
        make(either, "a/x.txt", "b/y.txt")
        (either / "b" / "to_a").symlink_to("../a")
        (either / "c").symlink_to("b")
        (either / "one").symlink_to("two")
        (either / "two").symlink_to("a/x.txt")
        assert copies(either) == [
            "a/x.txt",
            "b/to_a/x.txt",
            "b/y.txt",
            "c/to_a/x.txt",
            "c/y.txt",
            "one",
            "two",
        ]

    def test_a_cycle_ends(self, either: Path) -> None:
        make(either, "a/x.txt", "b/y.txt")
        (either / "a" / "up").symlink_to("..")
        (either / "a" / "self").symlink_to(".")
        (either / "a" / "to_b").symlink_to("../b")
        (either / "b" / "to_a").symlink_to("../a")
        (either / "loop").symlink_to("loop")
        found = collect.collect(either, copy_links=True)
        assert [file.path for file in found.files] == ["a/to_b/y.txt", "a/x.txt", "b/to_a/x.txt", "b/y.txt"]
        assert "a/up: left out, because the link points to a folder that contains it" in found.warnings
        assert "loop: left out, because the link points to nothing" in found.warnings

    def test_a_link_that_points_to_nothing_is_left_out_and_said(self, either: Path) -> None:
        make(either, "a.txt")
        (either / "dangling").symlink_to("missing")
        found = collect.collect(either, copy_links=True)
        assert [file.path for file in found.files] == ["a.txt"]
        assert found.warnings == ("dangling: left out, because the link points to nothing",)

    def test_links_that_leave_the_project_are_refused_by_name(self, either: Path, tmp_path: Path) -> None:
        make(either, "a.txt", "sub/b.txt")
        make(tmp_path, "outside/secret.txt")
        (either / "one").symlink_to("/etc/passwd")
        (either / "sub" / "two").symlink_to(tmp_path / "outside")
        (either / "three").symlink_to("../outside/secret.txt")
        with pytest.raises(WorkspaceError) as caught:
            collect.collect(either, copy_links=True)
        assert str(caught.value) == (
            "links point outside the project and cannot be sent: one, sub/two, three; "
            'leave them out with exclude = ["/one", "/sub/two", "/three"]'
        )
        assert copies(either, exclude=["/one", "/sub/two", "/three"]) == ["a.txt", "sub/b.txt"]

    def test_a_link_into_version_control_is_refused(self, either: Path) -> None:
        make(either, ".git/config.secret")
        (either / "config").symlink_to(".git/config.secret")
        with pytest.raises(
            WorkspaceError, match="a link points outside the project and cannot be sent: config"
        ):
            collect.collect(either, copy_links=True)

    def test_a_link_to_an_environment_elsewhere_is_left_out(self, either: Path, tmp_path: Path) -> None:
        make(either, "a.txt")
        make(tmp_path, "venvs/x/pyvenv.cfg")
        (either / ".venv").symlink_to(tmp_path / "venvs" / "x")
        found = collect.collect(either, copy_links=True)
        assert [file.path for file in found.files] == ["a.txt"]
        assert found.warnings == (".venv: left out, because the link points to a virtual environment",)

    def test_a_link_to_a_folder_of_which_nothing_travels_is_said(self, either: Path) -> None:
        make(either, "hidden/x.txt")
        make(either, ".gitignore", text="hidden/\n")
        (either / "link").symlink_to("hidden")
        assert collect.collect(either, copy_links=True).warnings == (
            "link: left out, because the link points to hidden, where nothing is sent",
        )
        assert copies(either, include=["hidden/"]) == [".gitignore", "hidden/x.txt", "link/x.txt"]

    def test_exclude_counts_below_a_link(self, either: Path) -> None:
        make(either, "real/a.txt", "real/b.txt")
        (either / "link").symlink_to("real")
        assert copies(either, exclude=["/link/a.txt"]) == ["link/b.txt", "real/a.txt", "real/b.txt"]

    def test_folders_that_multiply_by_links_are_refused(
        self, plain: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pytest_remote_ci.workspace.symlinks._MOST_FILES", 100)
        make(plain, "f0/x.txt")
        for number in range(1, 12):
            (plain / f"f{number}").mkdir()
            for name in "ab":
                (plain / f"f{number}" / name).symlink_to(f"../f{number - 1}")
        with pytest.raises(WorkspaceError, match="more than 100 files would be sent"):
            collect.collect(plain, copy_links=True)

    def test_the_project_may_itself_be_reached_through_a_link(self, either: Path, tmp_path: Path) -> None:
        make(either, "a/x.txt")
        (either / "inside").symlink_to(either / "a" / "x.txt")
        (tmp_path / "alias").symlink_to(either)
        found = collect.collect(tmp_path / "alias", copy_links=True)
        assert [file.path for file in found.files] == ["a/x.txt", "inside"]
        assert found.root == tmp_path / "alias"
