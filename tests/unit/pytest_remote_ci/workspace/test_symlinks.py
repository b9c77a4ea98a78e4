"""Links travel as what they point to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_remote_ci.errors import WorkspaceError
from pytest_remote_ci.workspace import collect


def make(folder: Path, *names: str, text: str = "x\n") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def paths(root: Path, **options: Any) -> list[str]:
    return [file.path for file in collect.collect(root, **options).files]


class TestLinks:
    """Links travel as what they point to."""

    def test_links_to_files_and_folders_travel_as_their_contents(self, either: Path) -> None:
        make(either, "real/a.txt", "real/sub/b.txt", text="content")
        (either / "real" / "a.txt").chmod(0o755)
        (either / "file").symlink_to("real/a.txt")
        (either / "absolute").symlink_to(either / "real" / "a.txt")
        (either / "folder").symlink_to("real")
        found = {file.path: file for file in collect.collect(either).files}
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
        assert paths(either) == [
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
        found = collect.collect(either)
        assert [file.path for file in found.files] == ["a/to_b/y.txt", "a/x.txt", "b/to_a/x.txt", "b/y.txt"]
        assert "a/up: left out, because the link points to a folder that contains it" in found.warnings
        assert "loop: left out, because the link points to nothing" in found.warnings

    def test_a_link_that_points_to_nothing_is_left_out_and_said(self, either: Path) -> None:
        make(either, "a.txt")
        (either / "dangling").symlink_to("missing")
        found = collect.collect(either)
        assert [file.path for file in found.files] == ["a.txt"]
        assert found.warnings == ("dangling: left out, because the link points to nothing",)

    def test_links_that_leave_the_project_are_refused_by_name(self, either: Path, tmp_path: Path) -> None:
        make(either, "a.txt", "sub/b.txt")
        make(tmp_path, "outside/secret.txt")
        (either / "one").symlink_to("/etc/passwd")
        (either / "sub" / "two").symlink_to(tmp_path / "outside")
        (either / "three").symlink_to("../outside/secret.txt")
        with pytest.raises(WorkspaceError) as caught:
            collect.collect(either)
        assert str(caught.value) == (
            "links point outside the project and cannot be sent: one, sub/two, three; "
            'leave them out with exclude = ["/one", "/sub/two", "/three"]'
        )
        assert paths(either, exclude=["/one", "/sub/two", "/three"]) == ["a.txt", "sub/b.txt"]

    def test_a_link_into_version_control_is_refused(self, either: Path) -> None:
        make(either, ".git/config.secret")
        (either / "config").symlink_to(".git/config.secret")
        with pytest.raises(
            WorkspaceError, match="a link points outside the project and cannot be sent: config"
        ):
            collect.collect(either)

    def test_a_link_to_an_environment_elsewhere_is_left_out(self, either: Path, tmp_path: Path) -> None:
        make(either, "a.txt")
        make(tmp_path, "venvs/x/pyvenv.cfg")
        (either / ".venv").symlink_to(tmp_path / "venvs" / "x")
        found = collect.collect(either)
        assert [file.path for file in found.files] == ["a.txt"]
        assert found.warnings == (".venv: left out, because the link points to a virtual environment",)

    def test_a_link_to_a_folder_of_which_nothing_travels_is_said(self, either: Path) -> None:
        make(either, "hidden/x.txt")
        make(either, ".gitignore", text="hidden/\n")
        (either / "link").symlink_to("hidden")
        assert collect.collect(either).warnings == (
            "link: left out, because the link points to hidden, where nothing is sent",
        )
        assert paths(either, include=["hidden/"]) == [".gitignore", "hidden/x.txt", "link/x.txt"]

    def test_exclude_counts_below_a_link(self, either: Path) -> None:
        make(either, "real/a.txt", "real/b.txt")
        (either / "link").symlink_to("real")
        assert paths(either, exclude=["/link/a.txt"]) == ["link/b.txt", "real/a.txt", "real/b.txt"]

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
            collect.collect(plain)

    def test_the_project_may_itself_be_reached_through_a_link(self, either: Path, tmp_path: Path) -> None:
        make(either, "a/x.txt")
        (either / "inside").symlink_to(either / "a" / "x.txt")
        (tmp_path / "alias").symlink_to(either)
        found = collect.collect(tmp_path / "alias")
        assert [file.path for file in found.files] == ["a/x.txt", "inside"]
        assert found.root == tmp_path / "alias"
