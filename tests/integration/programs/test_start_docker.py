"""`scripts/start-docker` on a private daemon: everything below one folder, in a network namespace of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.waiting import wait_until

SCRIPT = Path(__file__).parents[3] / "scripts" / "start-docker"

pytestmark = pytest.mark.docker


class PrivateDaemon:
    """Runs the script for one folder and knows the daemon that it started."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self.folder = folder
        self.namespace = namespace

    def start(self, wait: int = 40) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "START_DOCKER_FOLDER": str(self.folder), "START_DOCKER_WAIT": str(wait)}
        env.pop("DOCKER_HOST", None)
        return subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.namespace}", SCRIPT],
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @property
    def pid(self) -> int:
        return int((self.folder / "docker.pid").read_text())

    def is_running(self) -> bool:
        try:
            status = Path(f"/proc/{self.pid}/stat").read_text()
        except (OSError, ValueError):
            return False
        return "(dockerd)" in status and ") Z" not in status

    def kill(self) -> None:
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.is_running(), what="the daemon's end by SIGKILL")

    def starts(self) -> int:
        """How often a daemon was started."""
        return (self.folder / "dockerd.log").read_text().count('msg="Starting up"')


@pytest.fixture
def daemon() -> Iterator[PrivateDaemon]:
    if os.geteuid() != 0 or not all(shutil.which(name) for name in ("ip", "nsenter", "dockerd")):
        pytest.skip("needs root, iproute2 and dockerd")
    name = "ci-runner-" + uuid.uuid4().hex[:8]
    # A short path: addresses of sockets are limited to 108 bytes.
    folder = Path("/tmp") / name
    subprocess.run(["ip", "netns", "add", name], check=True)
    private = PrivateDaemon(folder, name)
    try:
        subprocess.run(["nsenter", f"--net=/run/netns/{name}", "ip", "link", "set", "lo", "up"], check=True)
        yield private
    finally:
        if private.is_running():
            os.kill(private.pid, signal.SIGCONT)
            os.kill(private.pid, signal.SIGTERM)
            with contextlib.suppress(AssertionError):
                wait_until(lambda: not private.is_running(), 20, what="the daemon's end")
        for line in Path("/proc/self/mounts").read_text().splitlines():
            if line.split()[1].startswith(f"{folder}/"):
                subprocess.run(["umount", line.split()[1]], check=False)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["ip", "netns", "delete", name], check=False)


def test_an_engine_is_started_once_and_again_after_it_was_killed(daemon: PrivateDaemon) -> None:
    first = daemon.start()
    assert first.returncode == 0, first.stderr
    assert "live-restore" in (daemon.folder / "daemon.json").read_text()
    assert daemon.start().returncode == 0
    assert daemon.starts() == 1

    daemon.kill()  # its pid file and its socket stay
    again = daemon.start()
    assert again.returncode == 0, again.stderr
    assert daemon.starts() == 2

    # After a reboot the numbers in the pid files may belong to anybody.
    daemon.kill()
    (daemon.folder / "docker.pid").write_text(str(os.getpid()))
    (daemon.folder / "exec/containerd/containerd.pid").write_text(str(os.getpid()))
    last = daemon.start()
    assert last.returncode == 0, last.stderr
    assert daemon.starts() == 3


def test_a_daemon_that_hangs_gets_no_second_one_beside_it(daemon: PrivateDaemon) -> None:
    assert daemon.start().returncode == 0
    os.kill(daemon.pid, signal.SIGSTOP)
    done = daemon.start(wait=1)
    assert done.returncode == 1
    assert "does not answer within 1 s; no second one is started" in done.stderr
    assert daemon.starts() == 1
