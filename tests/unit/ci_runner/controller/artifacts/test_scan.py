"""Finding files among what hostile code left: nothing outside is ever seen, and what is left out is said."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci_runner.controller.artifacts import scan
from ci_runner.controller.artifacts.scan import find, opened
from pytest_remote_ci.wire.globs import Globs

CANARY = "never to be read"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text(CANARY)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text(CANARY)
    folder = tmp_path / "upper"
    folder.mkdir()
    return folder


def names(folder: Path, *patterns: str) -> list[str]:
    return [file.path for file in find(folder, Globs(patterns or ["**"])).files]


def notes(folder: Path, *patterns: str) -> str:
    return "\n".join(find(folder, Globs(patterns or ["**"])).omissions.lines())


def put(folder: Path, path: str, text: str = "x") -> Path:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_files_are_found_in_order_with_size_and_mode(folder: Path) -> None:
    put(folder, "b/two.txt", "12")
    put(folder, "a.sh", "1").chmod(0o755)
    put(folder, "c.py")
    found = find(folder, Globs(["b", "*.sh", "missing"]))
    assert [(file.path, file.size, file.executable) for file in found.files] == [
        ("a.sh", 1, True),
        ("b/two.txt", 2, False),
    ]
    assert found.matched == {0, 1}
    assert found.omissions.lines() == []


def test_a_folder_that_is_gone_holds_nothing(folder: Path) -> None:
    assert names(folder / "gone") == []
    assert notes(folder / "gone") == ""


def test_links_are_never_followed(folder: Path) -> None:
    (folder / "file").symlink_to(folder.parent / "secret")
    (folder / "folder").symlink_to(folder.parent / "outside")
    (folder / "inner").symlink_to("real.txt")
    put(folder, "real.txt")
    assert names(folder) == ["real.txt"]
    assert names(folder, "folder/secret") == []
    assert notes(folder) == "not stored: 'file' is a link (2 more like it)"


def test_the_folder_itself_may_be_no_link(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder.parent / "outside")
    assert names(link) == []
    assert "'the project' cannot be read" in notes(link)


@pytest.mark.parametrize("swap", ["file", "folder"])
def test_what_became_a_link_since_it_was_found_is_not_read(folder: Path, swap: str) -> None:
    put(folder, "sub/secret")
    [file] = find(folder, Globs(["**"])).files
    (folder / "sub" / "secret").unlink()
    if swap == "file":
        (folder / "sub" / "secret").symlink_to(folder.parent / "secret")
    else:
        (folder / "sub").rmdir()
        (folder / "sub").symlink_to(folder.parent / "outside")
    with pytest.raises(OSError, match=r"symbolic links|Not a directory"), opened(folder, file.path):
        pass


def test_pipes_sockets_and_devices_are_passed_over(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(folder / "socket"))
        assert names(folder) == []
        assert notes(folder) == "not stored: 'pipe' is not a regular file (1 more like it)"
        with pytest.raises(OSError, match="not a regular file"), opened(folder, "pipe"):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make one")
def test_an_overlays_mark_of_deletion_is_nothing_to_speak_of(folder: Path) -> None:
    os.mknod(folder / "gone", 0o020000, 0)
    assert names(folder) == []
    assert notes(folder) == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (b"new\nline", "control character"),
        (b"esc\x1b[2J", "control character"),
        ("c1\x9b".encode(), "control character"),
        (b"latin\xe9", "not valid Unicode"),
        (b"back\\slash", "backslash"),
        (b"C:x", "drive"),
    ],
)
def test_names_that_mean_trouble_elsewhere_are_left_out(folder: Path, name: bytes, words: str) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/" + name))).write_text("x")
    put(folder, "fine")
    assert names(folder) == ["fine"]
    assert words in notes(folder)
    assert "\n" not in notes(folder)
    assert notes(folder).isprintable()


def test_a_tree_that_is_too_deep_is_not_followed_down(folder: Path) -> None:
    place = folder
    for _ in range(70):
        place = place / "d"
        place.mkdir()
    put(place, "x")
    assert names(folder) == []
    assert "folders deep" in notes(folder)


def test_the_walk_is_no_recursion(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_DEPTH", 3000)
    place = folder
    for _ in range(1500):
        place = place / "d"
        place.mkdir()
    put(place, "x")
    assert find(folder, Globs(["**/y"])).entries == 1501


def test_only_so_many_files_are_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_ENTRIES", 10)
    for number in range(8):
        put(folder, f"a/{number}")
        put(folder, f"b/{number}")
    found = find(folder, Globs(["**"]))
    assert [file.path for file in found.files] == [f"a/{number}" for number in range(8)]
    assert found.entries == 11
    assert "only 10 files and folders are looked at" in found.omissions.lines()[0]


def test_fewer_files_are_looked_at_for_very_many_patterns(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "MAX_ENTRIES", 100)
    for number in range(90):
        put(folder, f"a/{number}")
    assert find(folder, Globs(["**/x"] * 10)).omissions.lines() == []
    assert "files and folders are looked at" in find(folder, Globs(["**/x"] * 100)).omissions.lines()[0]


def test_where_nothing_can_match_nobody_looks(folder: Path) -> None:
    for number in range(50):
        put(folder, f"node_modules/{number}/x")
    assert find(folder, Globs([".coverage", "htmlcov"])).entries == 1


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Root reads everything: here, nobody is root for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65532)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_cannot_be_read_is_said(
    folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, "locked/x")
    put(folder, "closed")
    for path in (folder, folder / "locked", folder / "closed"):
        os.chown(path, 65532 if os.geteuid() == 0 else -1, -1)
    (folder / "locked").chmod(0)
    (folder / "closed").chmod(0)
    monkeypatch.chdir(folder)  # the folders above belong to root alone
    request.getfixturevalue("unprivileged")
    here = Path()
    found = find(here, Globs(["**"]))
    assert found.omissions.lines() == ["not stored: 'locked' cannot be read (Permission denied)"]
    assert [file.path for file in found.files] == ["closed"]
    with pytest.raises(PermissionError), opened(here, "closed"):
        pass


@pytest.mark.parametrize("seed", range(100))
def test_a_hostile_tree_gives_away_nothing(folder: Path, seed: int) -> None:
    """Trees of everything that unprivileged code can make, by chance; what is read is only ever the tree's own."""
    chance = random.Random(seed)
    outside = [
        folder.parent / "secret",
        folder.parent / "outside",
        Path("/etc/passwd"),
        Path("/etc"),
        Path("/"),
        Path(".."),
    ]
    (folder / "plain").write_text("own")
    folders, made = [folder], 0
    while made < 40:
        place = chance.choice(folders)
        name = chance.choice(
            ["a", "b\n", "\x1b[2J", "..x", " ", "C:", "ü", "-rf", "%2e", "\\", "~", ".git", "con"]
        )
        target = place / f"{name}{made}"
        made += 1
        kind = chance.choice(["file", "folder", "link", "link", "pipe", "hard link", "relative link"])
        if kind == "file":
            target.write_text("own")
        elif kind == "folder":
            target.mkdir()
            folders.append(target)
        elif kind == "link":
            target.symlink_to(chance.choice(outside))
        elif kind == "relative link":
            target.symlink_to("../" * chance.randrange(9) + chance.choice(["secret", "etc/passwd", "."]))
        elif kind == "pipe":
            os.mkfifo(target)
        else:
            files = [path for path in place.iterdir() if path.is_file() and not path.is_symlink()]
            if files:
                os.link(chance.choice(files), target)
    found = find(folder, Globs(["**"]))
    assert len(found.files) == len({file.path for file in found.files})
    assert "plain" in {file.path for file in found.files}
    for file in found.files:
        with opened(folder, file.path) as handle:
            assert handle is not None
            assert os.read(handle, 100) == b"own"
    assert all(line.isprintable() for line in found.omissions.lines())
