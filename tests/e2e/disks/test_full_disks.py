"""Jobs that fill what they may write: the clear message, the right verdict, and a runner that goes on working."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.test_services import containers, over, submit
from support.developer import Developer
from support.waiting import wait_until

pytestmark = pytest.mark.docker

#: Of this module's runner.
RUNNER_OPTIONS = ("--disk", "64m")


@pytest.fixture(autouse=True)
def the_runner_goes_on(developer: Developer, tmp_path: Path) -> Iterator[None]:
    """After each bad job, a good one passes."""
    yield
    folder = make(tmp_path / "good", "def test_good():\n    open('small', 'w').write('x')\n")
    done = developer.pytest("-q", cwd=folder)
    assert done.code == 0, done.text


def make(folder: Path, test: str) -> Path:
    """A project with one test file."""
    folder.mkdir()
    (folder / "test_it.py").write_text(test)
    return folder


MANY_FILES = (
    "import time\n"
    "def test_fills():\n"
    "    for number in range(100):\n"
    "        with open(f'file-{number}', 'wb') as file:\n"
    "            file.write(b'x' * (1 << 20))\n"
    "    time.sleep(60)\n"
)
ONE_FILE = (
    "import time\n"
    "def test_fills():\n"
    "    with open('big', 'wb') as file:\n"
    "        for _ in range(100):\n"
    "            file.write(b'x' * (1 << 20))\n"
    "    time.sleep(60)\n"
)
# Slow enough to be seen before it meets the limit of a single file.
ENDLESS_OUTPUT = (
    "import os, time\n"
    "def test_fills(capfd):\n"
    "    with capfd.disabled():\n"
    "        while True:\n"
    "            os.write(1, (b'y' * 999 + b'\\n') * 100)\n"
    "            time.sleep(0.002)\n"
)

# What a walk by names does not find.
DELETED = (
    "import os, time\n"
    "def test_fills():\n"
    "    kept = []\n"
    "    for number in range(100):\n"
    "        kept.append(open(f'file-{number}', 'wb', buffering=0))\n"
    "        kept[-1].write(b'x' * (1 << 20))\n"
    "        os.unlink(kept[-1].name)\n"
    "    time.sleep(60)\n"
)
DELETED_BY_A_DAEMON = (
    "import subprocess, sys, time\n"
    "PROGRAM = '\\n'.join([\n"
    "    'import mmap, os, time',\n"
    "    'handle = os.open(\"big\", os.O_RDWR | os.O_CREAT)',\n"
    "    'for _ in range(100): os.write(handle, b\"x\" * (1 << 20))',\n"
    "    'held = mmap.mmap(handle, 100 << 20)',\n"
    "    'os.close(handle); os.unlink(\"big\"); time.sleep(60)',\n"
    "])\n"
    "def test_fills():\n"
    "    with subprocess.Popen([sys.executable, '-c', PROGRAM], start_new_session=True):\n"
    "        time.sleep(60)\n"
)
DEEP = (
    "import os, time\n"
    "def test_fills():\n"
    "    for _ in range(60):\n"
    "        os.mkdir('d' * 100)\n"
    "        os.chdir('d' * 100)\n"
    "    for number in range(100):\n"
    "        with open(f'file-{number}', 'wb') as file:\n"
    "            file.write(b'x' * (1 << 20))\n"
    "    time.sleep(60)\n"
)
EMPTY = (
    "import os, time\n"
    "def test_fills():\n"
    "    for number in range(20000):\n"
    "        os.close(os.open(f'file-{number}', os.O_CREAT))\n"
    "    time.sleep(60)\n"
)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "test",
    [
        pytest.param(MANY_FILES, id="the workspace, file by file"),
        pytest.param(ONE_FILE, id="the workspace, by one file"),
        pytest.param(ENDLESS_OUTPUT, id="its own output"),
        pytest.param(DELETED, id="files that it deleted and holds open"),
        pytest.param(DELETED_BY_A_DAEMON, id="a mapped file that a daemon deleted"),
        pytest.param(DEEP, id="paths that no system call takes"),
        pytest.param(EMPTY, id="empty files"),
    ],
)
def test_a_job_that_fills_the_disk_is_ended(developer: Developer, tmp_path: Path, test: str) -> None:
    done = developer.pytest("--remote-ci-timeout=60", cwd=make(tmp_path / "p", test))
    assert done.code == 70, done.text[-2000:]
    assert "disk limit of 64 MiB exceeded" in done.err
    assert "disk limit of 64 MiB exceeded while running test_it.py::test_fills" in done.out
    job = developer.jobs()[0]
    assert (job["status"], job["exit_code"]) == ("failed", None)
    assert "disk limit of 64 MiB exceeded" in job["reason"]


@pytest.fixture(scope="module")
def image_with_a_volume(docker_engine: str) -> Iterator[str]:
    """The base image as databases have theirs: data lie in a volume."""
    name = "ci-runner-test-volume:x"
    build = ["docker", "build", "--quiet", "--tag", name, "-"]
    subprocess.run(build, input=f"FROM {docker_engine}\nVOLUME /data\n".encode(), check=True, timeout=120)
    yield name
    subprocess.run(["docker", "image", "rm", "--force", name], check=True, timeout=120)


def test_a_service_that_fills_the_disk_ends_its_job(developer: Developer, image_with_a_volume: str) -> None:
    half = "head -c 40000000 /dev/zero"
    fills = ["sh", "-c", f"{half} >/big; {half} >/data/big; exec sleep 600"]
    lasting = {"test_it.py": b"import time\ndef test_lasts():\n    time.sleep(60)\n"}
    job_id = submit(developer, image_with_a_volume, [{"name": "db", "command": fills}], lasting)
    job = over(developer, job_id)
    assert job["status"] == "failed"
    assert job["reason"].startswith("disk limit of 64 MiB exceeded")
    wait_until(lambda: not containers(job_id), 60, what="the removal of what is left of a job")


def test_a_service_that_writes_where_no_path_leads_ends_its_job(
    developer: Developer, image_with_a_volume: str
) -> None:
    program = (
        "import os, time\n"
        "os.chdir('/data')\n"
        "for _ in range(60): os.mkdir('d' * 100); os.chdir('d' * 100)\n"
        "with open('big', 'wb') as file: file.write(b'x' * 80_000_000)\n"
        "time.sleep(600)\n"
    )
    lasting = {"test_it.py": b"import time\ndef test_lasts():\n    time.sleep(60)\n"}
    service = {"name": "db", "command": ["python3", "-c", program]}
    job = over(developer, submit(developer, image_with_a_volume, [service], lasting))
    assert job["status"] == "failed"
    assert job["reason"].startswith("disk limit of 64 MiB exceeded")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("place", ["/tmp", "~"])
def test_a_full_temporary_or_home_folder_is_the_tests_own_failure(
    developer: Developer, tmp_path: Path, place: str
) -> None:
    folder = make(
        tmp_path / "p",
        "import os\n"
        "def test_fills():\n"
        f"    folder = os.path.expanduser({place!r})\n"
        "    for number in range(3000):\n"
        "        with open(f'{folder}/file-{number}', 'wb') as file:\n"
        "            file.write(b'x' * (1 << 20))\n",
    )
    done = developer.pytest(cwd=folder)
    assert done.code == 1, done.text
    assert "No space left on device" in done.out
    assert developer.jobs()[0]["status"] == "completed"
