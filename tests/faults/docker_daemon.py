"""A Docker daemon of a test's own, in a network namespace of its own, which may be killed and started again.

It must not share the host's network namespace: a second daemon there deletes the first one's bridge. `nsenter` rather
than `ip netns exec`, which would hide the control groups. Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import uuid
from pathlib import Path

from support.waiting import wait_until


class PrivateEngine:
    """Start, kill and restart a daemon; `url` is what a Docker client connects to."""

    def __init__(self, folder: Path, *, live_restore: bool) -> None:
        self.folder = folder
        self.namespace = f"cir-{uuid.uuid4().hex[:8]}"
        # A socket's path is limited to 108 bytes, which a test's temporary folder may exceed.
        self.run = Path("/run") / self.namespace
        self.url = f"unix://{self.run}/docker.sock"
        self.live_restore = live_restore
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PrivateEngine:
        self.run.mkdir(mode=0o700)
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        subprocess.run(["ip", "-n", self.namespace, "link", "set", "lo", "up"], check=True)
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            names = self.docker("ps", "-aq").split()
            if names:
                self.docker("rm", "-f", "-v", *names)
        self.stop()
        subprocess.run(["ip", "netns", "del", self.namespace], check=False)
        self._unmount()
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, timeout: float = 60) -> None:
        """Start the daemon (again) and wait until it answers."""
        for leftover in (self.run / "docker.pid", self.run / "exec" / "containerd" / "containerd.pid"):
            leftover.unlink(missing_ok=True)
        config = self.run / "daemon.json"
        config.write_text(json.dumps({"live-restore": self.live_restore}))
        command = [
            "nsenter",
            f"--net=/run/netns/{self.namespace}",
            "dockerd",
            "--config-file",
            str(config),
            "--data-root",
            str(self.folder / "data"),
            "--exec-root",
            str(self.run / "exec"),
            "--pidfile",
            str(self.run / "docker.pid"),
            "-H",
            self.url,
        ]
        with (self.run / "dockerd.log").open("ab") as log:
            self._daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_until(self._answers, timeout, what="an answer of the daemon", interval=0.1)

    def _answers(self) -> bool:
        if self._daemon is None or self._daemon.poll() is not None:
            raise RuntimeError((self.run / "dockerd.log").read_text()[-3000:])
        command = ["docker", "-H", self.url, "version"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def kill(self) -> None:
        """SIGKILL, as a crash would; its containerd goes too, the containers' shims do not."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()
        self._end_containerd(signal.SIGKILL)

    def stop(self) -> None:
        """End the daemon in good order."""
        if self._daemon is not None:
            self._daemon.terminate()
            try:
                self._daemon.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
            self._daemon = None
        self._end_containerd(signal.SIGTERM)

    def docker(self, *args: str) -> str:
        """Run the Docker client against this daemon."""
        done = subprocess.run(["docker", "-H", self.url, *args], check=True, capture_output=True, text=True)
        return done.stdout

    def load(self, image: str, source: str | None = None) -> None:
        """Copy an image of the host's daemon (or the one at `source`) into this one."""
        host = ["docker"] if source is None else ["docker", "-H", source]
        with subprocess.Popen([*host, "save", image], stdout=subprocess.PIPE) as save:
            subprocess.run(
                ["docker", "-H", self.url, "load", "-q"], stdin=save.stdout, check=True, capture_output=True
            )
        if save.returncode:
            raise RuntimeError(f"no image {image}")

    def _end_containerd(self, how: signal.Signals) -> None:
        pid_file = self.run / "exec" / "containerd" / "containerd.pid"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            os.kill(int(pid_file.read_text()), how)

    def _unmount(self) -> None:
        prefixes = (str(self.run), str(self.folder))
        targets = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for target in reversed([target for target in targets if target.startswith(prefixes)]):
            subprocess.run(["umount", "-l", target], check=False, capture_output=True)
