"""A runner of one's own, as real processes on a temporary data directory: what end-to-end and fault tests start.

`Runner` starts, kills and restarts `serve` and `reconcile` each by itself; afterwards nothing of it is left at the
engine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ci_runner.embedded import host_package_settings
from ci_runner.storage.safe_fs import Trash
from support.waiting import wait_until

#: How long a program may take to get ready, or to end after SIGTERM (seconds).
PATIENCE = 60.0


def is_ahead(name: str) -> bool:
    """Whether a container, a volume or a folder is of a container that was started before its job."""
    return re.match(r"([\w.-]+-)?ahead[0-9a-f]{16}", name) is not None


@dataclass
class Runner:
    """One runner and a user of it."""

    data_dir: Path
    engine: str
    image: str
    #: More options for both programs, such as ``("--concurrency", "1")``.
    options: tuple[str, ...] = ()
    #: More environment for both programs.
    env: dict[str, str] = field(default_factory=dict)
    #: The Python whose `ci_runner` runs.
    python: str = sys.executable
    #: Where `serve` listens.
    url: str = ""
    #: Where clients are sent instead, if set.
    front: str = ""
    user_id: str = ""
    key: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    # -- programs
    def start(self) -> Runner:
        """Start both programs and make a user with a key."""
        self.start_reconcile()
        self.start_serve()
        self.user_id, self.key = self.make_user()
        return self

    def start_serve(self, *options: str) -> None:
        """Start `serve` and wait until it answers; again after a stop, on the same port."""
        port = self.url.rpartition(":")[2] or "0"
        announce = self.data_dir.parent / "announce.json"
        announce.unlink(missing_ok=True)
        self._spawn("serve", "--port", port, "--announce", str(announce), *options)
        wait_until(lambda: announce.exists() or self._ended("serve"), PATIENCE, what="serve to get ready")
        self.url = json.loads(announce.read_text())["url"]

    def start_reconcile(self, *options: str) -> None:
        """Start `reconcile` and wait until it holds the lease."""
        lines = self.log("reconcile").count("epoch")
        self._spawn("reconcile", "--engine", self.engine, "--base-image", self.image, *options)
        wait_until(
            lambda: self.log("reconcile").count("epoch") > lines or self._ended("reconcile"),
            PATIENCE,
            what="reconcile to take the lease",
        )

    def _spawn(self, program: str, *options: str) -> None:
        log = (self.data_dir.parent / f"{program}.log").open("ab")
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        command = [self.python, "-m", "ci_runner", program, "--data-dir", str(self.data_dir)]
        if program == "reconcile":
            command += ["--default-python", version]
        with log:
            self.processes[program] = subprocess.Popen(
                [*command, *options, *self.options],
                cwd=self.data_dir.parent,  # not the checkout, which Python would import from
                env=self.environment(),
                stdout=log,
                stderr=log,
            )

    def environment(self) -> dict[str, str]:
        """What the programs see: no settings of this machine but those by which packages reach it."""
        package = {
            f"CI_RUNNER_{name.partition('.')[2].upper()}": value
            for name, (value, _) in host_package_settings(os.environ).items()
        }
        # Containers that wait cost processor time after each job, and few tests have a second one: see CONTRIBUTING.md.
        own = {
            "PYTHONWARNINGS": "default",
            "CI_RUNNER_WARM_CONTAINERS": os.environ.get("TEST_WARM_CONTAINERS", "0"),
        }
        return {**package, **os.environ, **own, **self.env}

    def _ended(self, program: str) -> bool:
        code = self.processes[program].poll()
        assert code is None, f"{program} ended with {code}:\n{self.log(program)[-4000:]}"
        return False

    def log(self, program: str) -> str:
        """Everything that a program wrote so far."""
        path = self.data_dir.parent / f"{program}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self, program: str) -> int:
        """End a program in an orderly way; its exit code."""
        process = self.processes.pop(program)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(
                f"{program} did not end within {PATIENCE:g} s:\n{self.log(program)[-4000:]}"
            ) from None

    def kill(self, program: str) -> None:
        """SIGKILL: nothing is cleaned up."""
        process = self.processes.pop(program)
        process.kill()
        process.wait()

    def close(self) -> None:
        """End what still runs and remove everything of this runner from the engine."""
        codes = {program: self.stop(program) for program in list(self.processes)}
        self.remove_from_engine()
        self.remove_large_folders()
        assert all(code == 0 for code in codes.values()), (
            f"{codes}\n" + self.log("serve") + self.log("reconcile")
        )

    def remove_large_folders(self) -> None:
        """Remove environments and tools: hundreds of runners would leave 20 GB until the end of a test session."""
        trash = Trash(self.data_dir / "trash")
        for name in ("environments", "tools"):
            with contextlib.suppress(OSError):  # something is still mounted in it
                trash.remove(self.data_dir / name)

    def remove_from_engine(self) -> None:
        """Containers, volumes, networks and images with this install's label."""
        install = self.data_dir / "install-id"
        if self.engine != "docker" or not install.exists():
            return
        label = f"label=ci-runner.install={install.read_text().strip()}"
        for kind, listing, removal in (
            ("container", ["ls", "--all", "--quiet"], ["rm", "--force", "--volumes"]),
            ("volume", ["ls", "--quiet"], ["rm", "--force"]),
            ("network", ["ls", "--quiet"], ["rm"]),
        ):
            ids = docker(kind, *listing, "--filter", label, env=self.env).split()
            if ids:
                docker(kind, *removal, *ids, env=self.env)
        label = f"label=ci-runner.derived={install.read_text().strip()}"
        images = docker("image", "ls", "--quiet", "--filter", label, env=self.env).split()
        if images:
            docker("image", "rm", "--force", "--no-prune", *images, env=self.env)

    def containers(self) -> list[str]:
        """Ids of this runner's containers, whatever their state, but for those that wait for a job."""
        label = f"label=ci-runner.install={(self.data_dir / 'install-id').read_text().strip()}"
        shown = docker(
            "container", "ls", "--all", "--format", "{{.ID}} {{.Names}}", "--filter", label, env=self.env
        )
        found = dict(line.split() for line in shown.splitlines())
        return [identifier for identifier, name in found.items() if not is_ahead(name)]

    # -- users
    def admin(self, *words: str) -> Any:
        """An admin command's JSON; None for those that have none to give."""
        has_json = words[1] in ("create", "list", "get")
        command = [self.python, "-m", "ci_runner", "admin", "--data-dir", str(self.data_dir), *words]
        done = subprocess.run(
            [*command, "--json"] if has_json else command,
            cwd=self.data_dir.parent,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if has_json else None

    def make_user(self, email: str = "ann@example.org") -> tuple[str, str]:
        """A new user's id and key."""
        user = self.admin("user", "create", "--name", email.partition("@")[0], "--email", email)
        key = self.admin("key", "create", "--user-id", user["id"], "--name", "test")
        return user["id"], key["key"]

    # -- as a client
    @property
    def public_url(self) -> str:
        """What clients are told."""
        return self.front or self.url

    def get(self, path: str, key: str | None = None) -> Any:
        """The JSON at a path of the API; an error status raises `urllib.error.HTTPError`."""
        request = urllib.request.Request(self.public_url + path)
        request.add_header("Authorization", f"Bearer {key or self.key}")
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def client_environment(self, **more: str) -> dict[str, str]:
        """The environment of somebody who uses this runner."""
        return {**os.environ, "REMOTE_CI_URL": self.public_url, "REMOTE_CI_API_KEY": self.key, **more}

    def pytest(
        self, project: Path, *args: str, timeout: float = 300, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`pytest --remote-ci` in a project, to its end."""
        return self.run(
            [sys.executable, "-m", "pytest", "--remote-ci", *args], project, timeout=timeout, env=env
        )

    def remote_ci(
        self, project: Path, *args: str, timeout: float = 300, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`remote-ci` in a project, to its end."""
        command = [sys.executable, "-m", "pytest_remote_ci.cli.main", *args]
        return self.run(command, project, timeout=timeout, env=env)

    def run(
        self, command: Sequence[str], cwd: Path, *, timeout: float = 300, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Any command as a user of this runner."""
        return subprocess.run(
            command,
            cwd=cwd,
            env=self.client_environment(**(env or {})),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def docker(*words: str, env: dict[str, str] | None = None) -> str:
    """What a docker command prints; with `env` in addition to our own environment."""
    return subprocess.run(
        ["docker", *words],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
