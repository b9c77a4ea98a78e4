"""What processes hold on disk without a name: real processes, real files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ci_runner.controller.cleanup.open_files import unnamed_bytes, written_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")

MiB = 1 << 20
START = """
import ctypes, mmap, os, socket, sys, threading
path = sys.argv[1] + "/file"
def made():
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(handle, b"x" * (2 << 20))
    os.fsync(handle)
    return handle
"""
END = "\nprint('ready', flush=True)\nsys.stdin.read()\n"


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Callable[[str], int]]:
    """Run a program up to the point where it waits; the bytes that it holds then."""
    started = []

    def run(program: str) -> int:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", START + program + END, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return sum(unnamed_bytes([process.pid]))

    yield run
    for process in started:
        process.communicate(b"")


HELD = {
    "open": "held = made(); os.unlink(path)",
    "open twice": "held = made(), os.open(path, os.O_RDONLY); os.unlink(path)",
    "without ever having had a name": (
        "held = os.open(sys.argv[1], os.O_RDWR | os.O_TMPFILE); os.write(held, b'x' * (2 << 20))"
    ),
    "mapped": ("handle = made(); held = mmap.mmap(handle, 2 << 20); os.close(handle); os.unlink(path)"),
    "in a thread's own table": """
def own():
    assert ctypes.CDLL(None).unshare(0x400) == 0
    held = made()
    os.unlink(path)
    done.set()
    stop.wait()
done, stop = threading.Event(), threading.Event()
threading.Thread(target=own, daemon=True).start()
done.wait()
""",
}


@pytest.mark.parametrize("program", HELD.values(), ids=HELD)
def test_files_without_a_name_count_once(held: Callable[[str], int], program: str) -> None:
    assert 2 * MiB <= held(program) <= 2 * MiB + 65536


NOT_HELD = {
    "with a name": "held = made()",
    "with another name": "held = made(); os.link(path, path + '2'); os.unlink(path)",
    "in memory": (
        "held = ctypes.CDLL(None).memfd_create(b'x', 0); os.write(held, b'x' * (2 << 20))\n"
        "area = mmap.mmap(-1, 2 << 20); area.write(b'x' * (2 << 20))"
    ),
    "in /dev/shm": "path = '/dev/shm/' + str(os.getpid()); held = made(); os.unlink(path)",
    "sparse": ("held = os.open(path, os.O_RDWR | os.O_CREAT); os.truncate(held, 1 << 33); os.unlink(path)"),
    "no files": "held = os.pipe(), socket.socketpair()",
}


@pytest.mark.parametrize("program", NOT_HELD.values(), ids=NOT_HELD)
def test_nothing_else_counts(held: Callable[[str], int], program: str) -> None:
    assert held(program) < 65536


def test_a_process_that_is_gone_holds_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert sum(unnamed_bytes([process.pid])) == 0
    assert written_bytes([process.pid]) == 0


def test_what_was_written_and_deleted_is_remembered(tmp_path: Path) -> None:
    before = written_bytes([os.getpid()])
    program = (
        "import os, sys\n"
        "with open(sys.argv[1], 'wb', buffering=0) as file:\n"
        "    file.write(b'x' * (4 << 20)); os.fsync(file)\n"
        "os.unlink(sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", program, str(tmp_path / "file")], check=True)
    assert written_bytes([os.getpid()]) - before >= 4 * MiB
