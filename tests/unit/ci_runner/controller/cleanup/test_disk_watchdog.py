"""The disk watchdog: what counts, who is measured when, and who is named when the file system gets full."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.waiting import wait_until

from ci_runner.controller.cleanup.disk_watchdog import Watchdog, sizes_below
from ci_runner.controller.engine import Footprint
from ci_runner.errors import EngineUnavailable
from ci_runner.storage.safe_fs import Trash

MiB = 1 << 20


def make_deep(top: Path, levels: int, size: int = 0) -> None:
    """A chain of folders with long names, whose path no system call takes, and a file at its end."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d" * 100, dir_fd=here)
        inner = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    file = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here)
    os.write(file, b"x" * size)
    os.close(file)
    os.close(here)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Path]:
    """A folder that may be too deep for whoever cleans up."""
    folder = tmp_path / "work"
    folder.mkdir()
    yield folder
    Trash(tmp_path / "trash").remove(folder)


def test_bytes_are_counted_without_following_links(ground: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"x" * 1_000_000)
    (ground / "deep").mkdir()
    (ground / "deep" / "file").write_bytes(b"x" * 100_000)
    (ground / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "way").symlink_to(ground)
    assert 100_000 <= sum(sizes_below(ground)) < 200_000
    with pytest.raises(OSError, match="way"):
        sum(sizes_below(tmp_path / "way"))


def test_sparse_files_count_what_they_take(ground: Path) -> None:
    with (ground / "sparse").open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    assert sum(sizes_below(ground)) < MiB


def test_a_missing_folder_has_no_bytes(ground: Path) -> None:
    assert sum(sizes_below(ground, "none", "upper")) == 0


def test_paths_that_no_system_call_takes_count(ground: Path) -> None:
    make_deep(ground, 100, MiB)
    assert MiB <= sum(sizes_below(ground)) <= MiB + 110 * 4096


def test_what_is_empty_counts_for_its_inode(ground: Path) -> None:
    for number in range(100):
        (ground / str(number)).touch()
        (ground / f"to-{number}").symlink_to("nowhere")
    os.mkfifo(ground / "pipe")
    assert sum(sizes_below(ground)) == 201 * 4096


def test_a_file_with_many_names_counts_once(ground: Path) -> None:
    (ground / "file").write_bytes(b"x" * MiB)
    for number in range(20):
        os.link(ground / "file", ground / str(number))
    assert MiB <= sum(sizes_below(ground)) < 2 * MiB


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"\x1b]0;x\x07", "\u202e".encode()])
def test_any_name_counts(ground: Path, name: bytes) -> None:
    folder = ground / os.fsdecode(name)
    folder.mkdir()
    (folder / os.fsdecode(name)).write_bytes(b"x" * MiB)
    assert sum(sizes_below(ground)) >= MiB


# -- the watchdog at work
@pytest.fixture
def watching(ground: Path) -> Iterator[Callable[..., Watchdog]]:
    made = []

    def make(limit: int = MiB, **more: Any) -> Watchdog:
        watchdog = Watchdog(ground, limit, lambda: None, interval=0.01, **more)
        made.append(watchdog)
        watchdog.start()
        return watchdog

    yield make
    for watchdog in made:
        watchdog.close()


def attempt(ground: Path, job_id: str, part: str = "upper") -> Path:
    folder = ground / f"{job_id}-1" / part
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("part", ["upper", "copy", "spool", "work"])
def test_who_wrote_too_much_is_over(ground: Path, watching: Callable[..., Watchdog], part: str) -> None:
    watchdog = watching()
    (attempt(ground, "a", part) / "file").write_bytes(b"x" * 2 * MiB)
    (attempt(ground, "b", part) / "file").write_bytes(b"x")
    (attempt(ground, "ab", part) / "file").write_bytes(b"x" * 2 * MiB)  # not measured
    watchdog.watch({"a": (), "b": ()})
    wait_until(lambda: watchdog.over() == {"a"}, what="the measurement")
    watchdog.watch({"b": ()})
    wait_until(lambda: not watchdog.over(), what="forgetting")
    assert not watchdog.filling()


def test_a_neighbour_with_a_huge_tree_keeps_nobody_waiting(
    ground: Path, watching: Callable[..., Watchdog], monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = threading.Event()

    def sizes(root: Path, *names: str) -> Iterator[int]:
        if names[0].startswith("huge"):
            for _ in itertools.count():
                endless.set()
                yield 0
        yield from sizes_below(root, *names)

    monkeypatch.setattr("ci_runner.controller.cleanup.disk_watchdog.sizes_below", sizes)
    watchdog = watching()
    for name in ("huge1", "huge2", "a"):
        attempt(ground, name)
    watchdog.watch({"huge1": (), "huge2": (), "a": ()})
    assert endless.wait(10)
    (ground / "a-1" / "upper" / "file").write_bytes(b"x" * 2 * MiB)
    wait_until(lambda: watchdog.over() == {"a"}, what="the other's measurement")


def test_what_cannot_be_measured_keeps_nobody_waiting(
    ground: Path, watching: Callable[..., Watchdog]
) -> None:
    def footprint(container_id: str) -> Footprint:
        if container_id == "broken":
            raise RuntimeError("unexpected")
        raise EngineUnavailable("away")

    watchdog = watching(footprint=footprint)
    (attempt(ground, "a") / "file").write_bytes(b"x" * 2 * MiB)
    (ground / "b-1").symlink_to(ground / "a-1")
    watchdog.watch({"b": (), "c": ("broken",), "d": ("away",), "a": ("away",)})
    wait_until(lambda: watchdog.over() == {"a"}, what="the measurement")


def test_an_engine_that_is_slow_about_services_keeps_nobody_waiting(
    ground: Path, watching: Callable[..., Watchdog]
) -> None:
    asked, answer = threading.Event(), threading.Event()

    def services() -> dict[str, int]:
        asked.set()
        answer.wait(60)
        return {"s": 2 * MiB}

    watchdog = watching(services=services)
    try:
        watchdog.watch({"a": ()}, serving={"s"})
        assert asked.wait(20)
        (attempt(ground, "a") / "file").write_bytes(b"x" * 2 * MiB)
        wait_until(lambda: watchdog.over() == {"a"}, what="the measurement")
    finally:
        answer.set()
    wait_until(lambda: watchdog.over() == {"a", "s"}, what="the services' measurement")


def test_what_is_seen_of_services_does_not_count_twice(
    ground: Path, tmp_path: Path, watching: Callable[..., Watchdog]
) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "file").write_bytes(b"x" * 3 * MiB)
    footprint = Footprint(folders=(tmp_path / "volume", tmp_path / "gone"), is_service=True)
    written = {"a": 3 * MiB}
    watchdog = watching(4 * MiB, services=lambda: written, footprint=lambda container_id: footprint)
    watchdog.watch({"a": ("c",)}, serving={"a"})
    wait_until(lambda: watchdog._written, 20, what="the services' measurement")
    wait_for_measurements(watchdog, a=3 * MiB)
    written["a"] = 5 * MiB  # where nobody but the engine looks
    wait_until(lambda: watchdog.over() == {"a"}, 20, what="the services' measurement")
    (tmp_path / "volume" / "file").unlink()
    written["a"] = 0
    wait_until(lambda: not watchdog.over(), 20, what="the next measurement")


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[int]:
    """A process that wrote 32 MiB into a file that nobody finds."""
    program = (
        "import os, sys\n"
        "file = os.open(sys.argv[1], os.O_RDWR | os.O_TMPFILE)\n"
        "for _ in range(32): os.write(file, b'x' * (1 << 20))\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-I", "-S", "-c", program, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield process.pid
    process.communicate(b"")


def test_a_file_that_was_deleted_counts(ground: Path, watching: Callable[..., Watchdog], writer: int) -> None:
    footprints = {"c": Footprint((writer,))}
    watchdog = watching(footprint=footprints.__getitem__)
    watchdog.watch({"a": ("c",)})
    wait_until(lambda: watchdog.over() == {"a"}, what="the measurement")


def test_folders_of_the_engine_count(ground: Path, tmp_path: Path, watching: Callable[..., Watchdog]) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "file").write_bytes(b"x" * 2 * MiB)
    watchdog = watching(footprint=lambda container_id: Footprint(folders=(tmp_path / "tmp",)))
    watchdog.watch({"a": ("c",)})
    wait_until(lambda: watchdog.over() == {"a"}, what="the measurement")


class Disk:
    """What the file system says of itself; a real one that gets full is in `e2e/disks/test_nearly_full_disk.py`."""

    def __init__(self) -> None:
        self.free = 1000 * MiB
        self.inodes = 1000

    def __call__(self, path: Path) -> os.statvfs_result:
        blocks, inodes = self.free // 4096, self.inodes
        return os.statvfs_result((4096, 4096, 1 << 30, blocks, blocks, 1000, inodes, inodes, 0, 255, 1))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk()
    monkeypatch.setattr("ci_runner.controller.cleanup.disk_watchdog.os.statvfs", found)
    return found


def wait_for_measurements(watchdog: Watchdog, **sizes: int) -> None:
    def measured() -> bool:
        meters = watchdog._meters
        return all(name in meters and meters[name].bytes >= size for name, size in sizes.items())

    wait_until(measured, what="the measurements")


@pytest.mark.parametrize("shortage", ["bytes", "inodes"])
def test_where_the_disk_is_nearly_full_the_greediest_is_named_and_gone_before_another(
    ground: Path, watching: Callable[..., Watchdog], disk: Disk, shortage: str
) -> None:
    watchdog = watching(1 << 40, reserve=64 * MiB)
    sizes = {"small": 1, "big": 8 * MiB, "bigger": 16 * MiB}
    for name, size in sizes.items():
        (attempt(ground, name) / "file").write_bytes(b"x" * size)
    watchdog.watch(dict.fromkeys(sizes, ()))
    wait_for_measurements(watchdog, **sizes)
    assert not watchdog.filling()

    def fill(is_full: bool) -> None:
        disk.free = 63 * MiB if is_full and shortage == "bytes" else 1000 * MiB
        disk.inodes = 19 if is_full and shortage == "inodes" else 1000

    fill(True)
    wait_until(lambda: watchdog.filling() == {"bigger"}, what="the first name")
    watchdog.watch({"small": (), "big": ()})
    fill(False)
    Trash(ground.parent / "trash").remove(ground / "bigger-1")
    wait_until(lambda: not watchdog.filling(), what="the end of the first")
    fill(True)
    wait_until(lambda: watchdog.filling() == {"big"}, what="the second name")
    assert not watchdog.over()


def test_nobody_is_named_for_what_somebody_else_wrote(
    ground: Path, watching: Callable[..., Watchdog], disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.free = 1 * MiB
    watchdog = watching(1 << 40, reserve=1000 * MiB)
    (attempt(ground, "modest") / "file").write_bytes(b"x" * MiB)
    watchdog.watch({"modest": ()})
    wait_for_measurements(watchdog, modest=MiB)
    wait_until(lambda: "not because of a job" in caplog.text, what="the warning")
    assert not watchdog.filling()


def test_without_a_reserve_nobody_is_named(
    ground: Path, watching: Callable[..., Watchdog], disk: Disk
) -> None:
    disk.free = disk.inodes = 0
    watchdog = watching(reserve=0)
    (attempt(ground, "a") / "file").write_bytes(b"x" * 2 * MiB)
    watchdog.watch({"a": ()})
    wait_until(lambda: watchdog.over() == {"a"}, what="the measurement")
    assert not watchdog.filling()


def test_what_nobody_can_find_is_the_fault_of_who_wrote_it(
    ground: Path, watching: Callable[..., Watchdog], writer: int, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the file were out of sight: on its way through a socket, say.
    monkeypatch.setattr("ci_runner.controller.cleanup.open_files.unnamed_bytes", lambda processes: iter(()))
    (attempt(ground, "modest") / "file").write_bytes(b"x" * 4 * MiB)
    footprints = {"h": Footprint((writer,)), "m": Footprint()}
    watchdog = watching(1 << 40, reserve=128 * MiB, footprint=footprints.__getitem__)
    watchdog.watch({"modest": ("m",), "hidden": ("h",)})
    wait_for_measurements(watchdog, modest=4 * MiB)
    wait_until(lambda: watchdog._meters["hidden"].processes, what="the measurement")
    disk.free = 100 * MiB
    wait_until(lambda: watchdog.filling() == {"hidden"}, what="the name")
