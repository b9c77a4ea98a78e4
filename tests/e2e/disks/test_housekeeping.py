"""What one user's job leaves behind keeps nobody's turn away: everything is removed, and others are served."""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path

import pytest
from support.developer import Developer
from support.needs import skip
from support.runner import Runner
from support.waiting import wait_until

from ci_runner.store import Store

pytestmark = pytest.mark.docker

#: In the workspace and in the spool: too deep for recursion and for any path, closed, of any kind and name.
HOSTILE = r"""
import os, socket

def chain(levels, name):
    here = os.getcwd()
    for _ in range(levels):
        os.mkdir(name)
        os.chdir(name)
    open("end", "w").close()
    os.chdir(here)

def test_leaves_much():
    for place in (".", "/ci/spool"):
        os.chdir(place)
        os.mkdir("left")
        os.chdir("left")
        chain(3000, "d")
        chain(50, "n" * 255)
        for name in (b"\xff\xfe", b"a\nb", b"\x1b]0;x\x07", "\u202etxt.exe".encode(), b"-rf", b"*"):
            os.mkdir(name)
            open(name + b"/" + name, "w").close()
        os.mkfifo("pipe")
        socket.socket(socket.AF_UNIX).bind("socket")
        with open("sparse", "wb") as file:
            file.truncate(1 << 29)
        for number in range(200):
            os.link("sparse", f"link-{number}")
        os.symlink(".", "loop")
        os.symlink("/", "root")
        os.symlink("/ci", "ci")
        os.mkdir("many")
        for number in range(5000):
            os.mkdir(f"many/{number}")
        os.mkdir("closed")
        os.mkdir("closed/inside")
        os.chmod("closed/inside", 0)
        os.chmod("closed", 0)
        os.chmod(".", 0o500)
"""
GOOD = "def test_good():\n    open('left', 'w').close()\n"


def run(developer: Developer, folder: Path, test: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "test_it.py").write_text(test)
    done = developer.pytest("-q", cwd=folder)
    assert done.code == 0, done.text


def is_clean(runner: Runner) -> bool:
    """Whether nothing of any job is left, but for what is hidden to be removed."""
    return not any((runner.data_dir / "work").iterdir())


@pytest.mark.every(2)
@pytest.mark.timeout(600)
def test_a_hostile_job_is_removed_and_everybody_after_it(
    runner: Runner, developer: Developer, another: Developer, tmp_path: Path
) -> None:
    run(developer, tmp_path / "hostile", HOSTILE)
    run(another, tmp_path / "good", GOOD)
    wait_until(lambda: is_clean(runner), 120, what="the removal of what jobs left")
    email = f"{developer.home.name.removeprefix('home-')}@example.org"
    [user] = [user for user in runner.admin("user", "list") if user["email"] == email]
    runner.admin("user", "delete", user["id"], "--yes")
    # A controller that starts reaps at once.
    runner.stop("reconcile")
    runner.start_reconcile()
    with contextlib.closing(Store.open(runner.data_dir / "runner.db")) as store:
        wait_until(lambda: user["id"] not in store.users.deleted(), 120, what="the end of the deleted user")
    trash = runner.data_dir / "trash"
    wait_until(lambda: not trash.exists() or not any(trash.iterdir()), 120, what="an empty trash")
    run(another, tmp_path / "good", GOOD)
    wait_until(lambda: is_clean(runner), 120, what="the removal of what jobs left")
    log = runner.log("reconcile")
    assert "Traceback" not in log, log[-4000:]
    assert not re.search("removing: .* failed", log), log[-4000:]


def test_what_cannot_be_removed_is_one_line_a_round(
    runner: Runner, another: Developer, tmp_path: Path
) -> None:
    """An operator's mount in the working folder of a job that is gone, say; others are served all the same."""
    stray = runner.data_dir / "work" / "00000000-0000-4000-8000-000000000000-1"
    (stray / "upper").mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(stray / "upper")], check=False)
    if done.returncode:
        skip("nothing can be mounted here")
    try:
        runner.stop("reconcile")
        runner.start_reconcile()
        wait_until(
            lambda: "removing: the working folders of job" in runner.log("reconcile"), 60, what="the line"
        )
        run(another, tmp_path / "good", GOOD)
        assert "Traceback" not in runner.log("reconcile")
    finally:
        found = next(path for path in runner.data_dir.rglob("upper") if path.is_mount())
        subprocess.run(["umount", str(found)], check=True)
