"""A disk that gets full while jobs run: the greedy job ends, the modest one goes on. On a real, small file system."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.needs import skip
from support.runner import Runner
from support.waiting import wait_until

pytestmark = [
    pytest.mark.docker,
]

MiB = 1 << 20
RESERVE = 150 * MiB
REASON = "wrote too much: the runner's disk is nearly full"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of 600 MiB."""
    if os.geteuid() != 0:
        skip("only root can mount a file system")
    image, place = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as file:
        os.truncate(file.fileno(), 600 * MiB)
    place.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, timeout=60)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=False, timeout=60)
    if done.returncode:
        skip("no loop device can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=60)
        image.unlink()


@pytest.fixture
def runner(small_disk: Path, docker_engine: str) -> Iterator[Runner]:
    options = ("--disk-reserve", str(RESERVE))
    (small_disk / "data").mkdir(mode=0o700)
    with contextlib.closing(Runner(small_disk / "data", "docker", docker_engine, options)) as found:
        found.start_reconcile("--concurrency", "2", "--disk", "4g")
        found.start_serve()
        found.user_id, found.key = found.make_user()
        yield found


#: Sees that the disk is nearly full, and that it is no more.
MODEST = f"""
import os, time
def free():
    found = os.statvfs('.')
    return found.f_bavail * found.f_frsize
def wait_until(condition):
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
def test_modest():
    with open('mine', 'wb') as file:
        file.write(b'x' * (1 << 20))
    open('/ci/spool/begun', 'w').close()
    wait_until(lambda: free() < {RESERVE})
    wait_until(lambda: free() > {RESERVE + 50 * MiB})
"""
#: Keeps it where a walk finds it, or where only the descriptors of the process lead.
GREEDY = """
import os, time
def test_greedy():
    kept = []
    for number in range(600):
        kept.append(open(f'file-{number}', 'wb', buffering=0))
        kept[-1].write(b'x' * (1 << 20))
        UNLINK
        time.sleep(0.002)
    time.sleep(90)
"""
#: Keeps it where nobody can look: in the queue of a socket.
HIDDEN = """
import array, os, socket, time
def test_greedy():
    pairs = []
    for number in range(600):
        with open('file', 'wb', buffering=0) as file:
            file.write(b'x' * (1 << 20))
            os.unlink('file')
            pairs.append(socket.socketpair())
            pairs[-1][0].sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [file.fileno()]))])
        time.sleep(0.002)
    time.sleep(90)
"""
GREEDY_ONES = {
    "files": GREEDY.replace("UNLINK", ""),
    "deleted files": GREEDY.replace("UNLINK", "os.unlink(kept[-1].name)"),
    "files that nobody can find": HIDDEN,
}


def start(runner: Runner, folder: Path, test: str) -> subprocess.Popen[str]:
    """Begin a remote session of one test file."""
    folder.mkdir()
    (folder / "test_it.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "--remote-ci", "-p", "no:cacheprovider"]
    env, out = runner.client_environment(), subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT, text=True)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("greedy", GREEDY_ONES.values(), ids=GREEDY_ONES)
def test_the_greedy_job_ends_and_the_modest_one_goes_on(runner: Runner, tmp_path: Path, greedy: str) -> None:
    modest = start(runner, tmp_path / "modest", MODEST)
    wait_until(
        lambda: any((runner.data_dir / "work").glob("*/spool/begun")), 120, what="the modest job to begin"
    )
    greedy_one = start(runner, tmp_path / "greedy", greedy)
    modest_text, greedy_text = (process.communicate(timeout=200)[0] for process in (modest, greedy_one))
    assert greedy_one.returncode == 70, greedy_text
    assert f"{REASON} while running test_it.py::test_greedy" in greedy_text
    assert modest.returncode == 0, modest_text
    jobs = runner.get("/jobs")
    assert sorted((job["status"], job["exit_code"]) for job in jobs) == [
        ("completed", 0),
        ("failed", None),
    ]
    log = runner.log("reconcile")
    assert log.count("wrote most") == 1, log[-2000:]
    assert "Traceback" not in log
