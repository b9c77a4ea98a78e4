"""`ci_runner.storage.safe_fs` on ground that hostile code made: deep, long, linked, closed, moving."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci_runner.storage.safe_fs import FOLDER, Trash, Walk, opened_folder

DEPTH = 3000


def make_deep(folder: Path, depth: int, name: str = "d") -> None:
    """Nest folders, far deeper than any path may be long, with a file at the bottom."""
    here = os.open(folder, FOLDER)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, FOLDER, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """As many descriptors as many systems give a process, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def trash(tmp_path: Path) -> Trash:
    return Trash(tmp_path / "trash")


def test_a_folder_is_reached_only_through_folders(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a")
    with opened_folder(tmp_path, "a", "b") as folder:
        assert os.fstat(folder).st_ino == (tmp_path / "a" / "b").stat().st_ino
    with pytest.raises(OSError), opened_folder(tmp_path, "link", "b"):
        pass
    with pytest.raises(OSError), opened_folder(tmp_path, "a", "missing"):
        pass


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", "a\0b"])
def test_only_plain_names_are_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(ValueError), opened_folder(tmp_path, name):
        pass


def test_a_walk_sees_everything_and_follows_no_link(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "file").write_text("x")
    (top / "c").mkdir()
    (top / "c" / "other").write_text("y")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("z")
    (top / "link").symlink_to(tmp_path / "outside")
    with opened_folder(top) as folder:
        walk = Walk(folder)
        found = {entry.path: entry.is_folder for entry in walk}
    assert found == {
        "a": True,
        "a/b": True,
        "a/b/file": False,
        "c": True,
        "c/other": False,
        "link": False,
    }
    assert walk.complete


@pytest.mark.usefixtures("few_descriptors")
def test_a_walk_goes_to_any_depth(tmp_path: Path, trash: Trash) -> None:
    top = tmp_path / "top"
    top.mkdir()
    make_deep(top, DEPTH)
    with opened_folder(top) as folder:
        walk = Walk(folder)
        paths = [entry.path for entry in walk]
    assert walk.complete
    assert len(paths) == DEPTH + 1
    assert paths[-1].endswith("/bottom")
    trash.remove(top)


def test_a_walk_has_limits(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "inner").mkdir()
    with opened_folder(tmp_path) as folder:
        few = Walk(folder, limit=7)
        assert len(list(few)) == 7
        assert not few.complete
        flat = Walk(folder, depth=1)
        assert {entry.path for entry in flat} == {str(number) for number in range(10)}
        assert not flat.complete


def test_a_walk_survives_that_folders_move(tmp_path: Path) -> None:
    top, elsewhere = tmp_path / "top", tmp_path / "elsewhere"
    for name in ("a", "b"):
        (top / name / "inner").mkdir(parents=True)
        (top / name / "inner" / "file").write_text("x")
    (elsewhere / "private").mkdir(parents=True)
    seen = []
    with opened_folder(top) as folder:
        walk = Walk(folder)
        for entry in walk:
            seen.append(entry.path)
            if entry.name == "file" and len(seen) < 6 and not (elsewhere / "inner").exists():
                above = entry.path.rpartition("/")[0]
                (top / above).rename(elsewhere / "inner")
    assert not walk.complete
    assert {path.rpartition("/")[2] for path in seen} <= {"a", "b", "inner", "file"}
    assert sorted(path for path in seen if path.endswith("file")) == ["a/inner/file", "b/inner/file"]


@pytest.mark.usefixtures("few_descriptors")
def test_what_is_deep_is_removed(tmp_path: Path, trash: Trash) -> None:
    top = tmp_path / "top"
    top.mkdir()
    make_deep(top, DEPTH)
    make_deep(top, 40, "n" * 250)
    trash.remove(top)
    assert not top.exists()
    assert not any((tmp_path / "trash").iterdir())


def test_links_are_removed_and_not_followed(tmp_path: Path, trash: Trash) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    top = tmp_path / "top"
    (top / "inner").mkdir(parents=True)
    (top / "inner" / "link").symlink_to(outside)
    (tmp_path / "link").symlink_to(outside)
    for path in (top, tmp_path / "link", tmp_path / "absent"):
        trash.remove(path)
        assert not os.path.lexists(path)
    assert (outside / "precious").read_text() == "x"


def test_what_is_closed_to_its_owner_is_removed(tmp_path: Path) -> None:
    """Root ignores modes, so another user does it."""
    top = tmp_path / "top"
    for folder in (top, top / "closed", top / "closed" / "inner"):
        folder.mkdir()
    (top / "closed" / "inner" / "file").write_text("x")
    for folder in (top / "closed" / "inner", top / "closed", top):
        folder.chmod(0)
    if os.geteuid() == 0:
        for path in (tmp_path, *reversed(list(tmp_path.rglob("*")))):
            os.chown(path, 65532, 65532, follow_symlinks=False)
    pid = os.fork()
    if pid == 0:  # pragma: no cover - measured in the parent
        code = 1
        try:
            if os.geteuid() == 0:
                os.setresgid(65532, 65532, 65532)
                os.chdir(tmp_path)
                os.setresuid(65532, 65532, 65532)
            Trash(Path("trash")).remove(Path("top"))
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not top.exists()
    assert not any((tmp_path / "trash").iterdir())


def test_the_trash_is_emptied_in_steps(tmp_path: Path, trash: Trash) -> None:
    top = tmp_path / "top"
    for number in range(10):
        (top / str(number)).mkdir(parents=True)
        for inner in range(10):
            (top / str(number) / str(inner)).write_text("x")
    with opened_folder(tmp_path) as folder:
        assert trash.hide(folder, "top") is not None
        assert trash.hide(folder, "absent") is None
    assert not top.exists()
    steps = 1
    while not trash.empty(limit=25):
        steps += 1
    assert steps >= 4
    assert not any((tmp_path / "trash").iterdir())
    assert trash.empty()


def test_a_walk_remembers_few_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ci_runner.storage.safe_fs.MOST_NAMES", 7)
    top = tmp_path / "top"
    for number in range(50):
        for inner in range(9):
            (top / str(number) / f"{inner}\udcff").mkdir(parents=True)
    (top / "file").touch()
    with opened_folder(top) as folder:
        walk = Walk(folder)
        found = [entry.path for entry in walk]
    assert walk.complete
    assert len(found) == len(set(found)) == 50 + 50 * 9 + 1


def test_a_huge_folder_is_out_of_sight_at_once_and_removed_in_parts(tmp_path: Path, trash: Trash) -> None:
    folder = tmp_path / "huge"
    for number in range(300):
        (folder / str(number)).mkdir(parents=True)
    trash.remove(folder, 100)
    assert not folder.exists()
    assert 150 < sum(1 for _ in (tmp_path / "trash").rglob("*")) < 250
    assert not trash.empty(100)
    assert trash.empty(1000)
    assert list((tmp_path / "trash").iterdir()) == []


def test_two_threads_may_remove_the_same(tmp_path: Path, trash: Trash) -> None:
    errors: list[BaseException] = []
    done = threading.Event()

    def empty() -> None:
        try:
            while not done.wait(0.0001):
                trash.empty(50)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=empty, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(30):
            folder = tmp_path / str(number)
            folder.mkdir()
            make_deep(folder, 20)
            trash.remove(folder)
            assert not folder.exists()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert errors == []
    trash.empty()
    assert list((tmp_path / "trash").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_what_cannot_be_removed_keeps_nothing_else(tmp_path: Path, trash: Trash) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    for number in range(20):
        (folder / str(number) / "x").mkdir(parents=True)
    other.mkdir()
    mount = folder / "7" / "mount"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(mount)], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(OSError, match="busy"):
            trash.remove(folder)
        with pytest.raises(OSError, match="busy"):
            trash.empty()
        trash.remove(other)
        left = {path.name for path in (tmp_path / "trash").rglob("*")}
        assert "mount" in str(left)
        assert len(left) <= 4
    finally:
        [place] = [path for path in tmp_path.rglob("*") if path.is_mount()]
        subprocess.run(["umount", str(place)], check=True)
    trash.empty()
    assert list((tmp_path / "trash").iterdir()) == []
