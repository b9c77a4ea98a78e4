"""Jobs that go wrong: the clear message, the right status and exit code, and a runner that goes on working."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.developer import Developer, outcomes

pytestmark = pytest.mark.docker


@pytest.fixture(autouse=True)
def the_runner_goes_on(developer: Developer, tmp_path: Path) -> Iterator[None]:
    """After each bad job, a good one passes."""
    yield
    folder = tmp_path / "good"
    folder.mkdir()
    (folder / "test_good.py").write_text("def test_good():\n    pass\n")
    done = developer.pytest("-q", cwd=folder)
    assert done.code == 0, done.text


def make(folder: Path, test: str, **files: str) -> Path:
    """A project with one test file."""
    folder.mkdir()
    (folder / "test_it.py").write_text(test)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def last(developer: Developer) -> dict[str, object]:
    """The newest job of the developer."""
    return developer.jobs()[0]


def test_an_unknown_image(developer: Developer, tmp_path: Path) -> None:
    folder = make(tmp_path / "p", "def test(): pass\n")
    done = developer.pytest("--remote-ci-image=no.such.registry.invalid/image:1", cwd=folder)
    assert done.code == 70, done.text
    assert "no.such.registry.invalid/image:1" in done.err
    assert last(developer)["status"] == "failed"
    assert "no.such.registry.invalid/image:1" in str(last(developer)["reason"])


@pytest.mark.defect("A11")
def test_requirements_that_cannot_be_installed(developer: Developer, tmp_path: Path) -> None:
    folder = make(
        tmp_path / "p", "def test(): pass\n", requirements__txt="no-such-distribution-of-ours==99.1\n"
    )
    done = developer.pytest(cwd=folder)
    assert done.code == 70, done.text
    assert "no-such-distribution-of-ours" in done.err
    job = last(developer)
    assert (job["status"], job["success"], job["exit_code"]) == ("failed", None, None)


def test_a_project_without_tests_is_5(developer: Developer, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "setup.cfg").write_text("")
    assert developer.pytest(cwd=folder).code == 5


def test_a_test_that_leaves_with_os_exit(developer: Developer, tmp_path: Path) -> None:
    folder = make(tmp_path / "p", "import os\ndef test_leaves():\n    os._exit(7)\n")
    done = developer.pytest(cwd=folder)
    job = last(developer)
    assert (job["status"], job["success"]) == ("completed", False), job
    assert done.code == job["exit_code"] != 0


def test_a_test_that_kills_its_process(developer: Developer, tmp_path: Path) -> None:
    folder = make(tmp_path / "p", "import os\ndef test_dies():\n    os.kill(os.getpid(), 9)\n")
    done = developer.pytest(cwd=folder)
    assert done.code == 1, done.text
    job = last(developer)
    assert (job["status"], job["success"], job["exit_code"]) == ("completed", False, 1)
    assert "SIGKILL" in str(job["reason"])
    assert "pytest was ended by SIGKILL while running test_it.py::test_dies" in done.out


def test_a_test_that_takes_all_memory(developer: Developer, tmp_path: Path) -> None:
    folder = make(
        tmp_path / "p",
        "import os\n"
        "def test_eats():\n"
        "    size = int(os.environ['EATS']) << 20\n"
        "    kept = bytearray(size)\n"
        "    kept[::4096] = bytes(len(range(0, size, 4096))).replace(b'\\0', b'x')\n",
        pyproject__toml='[tool.remote-ci]\nmemory = "256m"\nenv = ["EATS"]\n',
    )
    # Far below what a job has by default: only the limit that was asked for can be the reason.
    done = developer.pytest(cwd=folder, EATS="400")
    assert done.code == 1, done.text
    assert "out of memory (limit 256 MiB; setting: memory)" in done.out
    job = last(developer)
    assert (job["status"], job["success"], job["exit_code"]) == ("completed", False, 1)
    assert "out of memory (limit 256 MiB; setting: memory)" in str(job["reason"])
    fits = developer.pytest(cwd=folder, EATS="100")
    assert fits.code == 0, fits.text


def test_a_test_that_runs_too_long(developer: Developer, tmp_path: Path) -> None:
    folder = make(tmp_path / "p", "import time\ndef test_long():\n    time.sleep(100)\n")
    done = developer.pytest("--remote-ci-timeout=3", cwd=folder)
    assert done.code == 70, done.text
    assert "timed out after 3 s" in done.err
    job = last(developer)
    assert (job["status"], job["success"]) == ("failed", False)


def test_a_test_that_fills_the_temporary_folder(developer: Developer, tmp_path: Path) -> None:
    folder = make(
        tmp_path / "p",
        "def test_fills(tmp_path):\n"
        "    with open(tmp_path / 'big', 'wb') as file:\n"
        "        for _ in range(3000):\n            file.write(b'x' * (1 << 20))\n",
    )
    done = developer.pytest(cwd=folder)
    assert done.code == 1, done.text
    assert "No space left on device" in done.out or "File too large" in done.out


LIMITS = """
[tool.remote-ci]
shm-size = "4m"
tmp-size = "64m"
home-size = "8m"
file-size = "70m"
open-files = 2000
"""
AT_LIMITS = """
import mmap, os, resource, signal

def size(folder):
    found = os.statvfs(folder)
    return found.f_blocks * found.f_frsize >> 20

def test_sizes():
    folders = ("/dev/shm", "/tmp", "/var/tmp", os.path.expanduser("~"))
    assert [size(folder) for folder in folders] == [4, 64, 64, 8]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == 70 << 20
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (2000, 2000)
    with open("/var/tmp/x", "w") as file:
        file.write("x")

def test_files():
    held = [open("/dev/null") for _ in range(2001)]

def test_shared_memory():
    with open("/dev/shm/x", "w+b") as file:
        file.truncate(8 << 20)
        with mmap.mmap(file.fileno(), 8 << 20) as mapped:
            mapped.write(bytes(8 << 20))

def test_large_file():
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    with open("large", "wb") as file:
        file.truncate(71 << 20)

def test_after(): pass
"""


def test_limits_of_a_project(developer: Developer, tmp_path: Path) -> None:
    folder = make(tmp_path / "p", AT_LIMITS, pyproject__toml=LIMITS)
    done = developer.pytest("-v", cwd=folder)
    assert done.code == 1, done.text
    assert outcomes(done) == {
        "test_sizes": "PASSED",
        "test_files": "FAILED",
        "test_shared_memory": "FAILED",
        "test_large_file": "FAILED",
        "test_after": "PASSED",
    }
    assert "ended by SIGBUS (usually: /dev/shm is full; limit 4 MiB; setting: shm-size)" in done.out
    assert (
        "ended by SIGXFSZ (a file grew beyond the largest size of a file; limit 70 MiB; setting: file-size)"
        in (done.out)
    )
    assert "a process may not open more files: `open-files` is the limit" in done.out
    (folder / "pyproject.toml").write_text('[tool.remote-ci]\nshm-size = "1000g"\n')
    done = developer.pytest("-v", cwd=folder)
    assert done.code == 70
    words = "shm-size: this runner allows at most 8 GiB; lower shm-size, or ask its operator to raise max-shm-size"
    assert words in done.err
    assert last(developer)["reason"] == words


def test_a_log_line_that_is_not_utf_8(developer: Developer, tmp_path: Path) -> None:
    folder = make(
        tmp_path / "p",
        "import os\ndef test_raw(capfd):\n    with capfd.disabled():\n        os.write(1, b'caf\\xe9 \\x00 end\\n')\n",
    )
    done = developer.pytest(cwd=folder)
    assert done.code == 0, done.text
    assert "caf\ufffd" in done.out
    assert "end" in done.out


def test_a_log_line_of_ten_megabytes(developer: Developer, tmp_path: Path) -> None:
    folder = make(
        tmp_path / "p",
        "import os\ndef test_long_line(capfd):\n    with capfd.disabled():\n"
        "        left = b'y' * 10_000_000 + b'|end|\\n'\n"
        "        while left:\n            left = left[os.write(1, left):]\n",
    )
    done = developer.pytest(cwd=folder)
    assert done.code == 0, done.text[-2000:]
    assert done.out.count("y" * 1000) >= 9_000
    assert "|end|" in done.out
    assert done.out.count("y") >= 10_000_000
