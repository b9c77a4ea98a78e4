"""A whole runner for end-to-end tests: real `serve` and `reconcile` processes on a data directory of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

FIXTURES = Path(__file__).resolve().parent / "fixtures"

#: What environment builds of a team runner take by name only; tests pass the host's own through.
_HOST_SETTINGS = {
    "CI_RUNNER_CA_BUNDLE": ("CI_RUNNER_CA_BUNDLE", "SSL_CERT_FILE", "PIP_CERT"),
    "CI_RUNNER_INDEX_URL": ("CI_RUNNER_INDEX_URL", "PIP_INDEX_URL"),
    "CI_RUNNER_HTTPS_PROXY": ("HTTPS_PROXY", "https_proxy"),
    "CI_RUNNER_HTTP_PROXY": ("HTTP_PROXY", "http_proxy"),
    "CI_RUNNER_NO_PROXY": ("NO_PROXY", "no_proxy"),
}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both outputs."""
        return self.out + self.err


@dataclass
class Runner:
    """`serve` and `reconcile` as two processes; either may be killed and started again."""

    folder: Path
    engine: str = "docker"
    image: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    def environ(self, **extra: str) -> dict[str, str]:
        """The environment of the runner's own processes."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("CI_RUNNER_", "PYTEST_"))}
        for name, sources in _HOST_SETTINGS.items():
            value = next((os.environ[source] for source in sources if os.environ.get(source)), None)
            if value:
                env[name] = value
        env |= {
            "CI_RUNNER_DATA_DIR": str(self.data),
            "CI_RUNNER_PORT": str(self.port),
            "CI_RUNNER_ENGINE": self.engine,
            "CI_RUNNER_DEFAULT_PYTHON": "3.11",
        }
        if self.image:
            env["CI_RUNNER_BASE_IMAGE"] = self.image
        return env | dict(self.settings) | extra

    def start(self, program: str, **extra: str) -> None:
        """Start `serve` or `reconcile` and wait until it works."""
        log = (self.folder / f"{program}.log").open("ab")
        command = [sys.executable, "-m", "ci_runner", program]
        with log:
            self.processes[program] = subprocess.Popen(command, env=self.environ(**extra), stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while not self._works(program):
            if self.processes[program].poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{program} does not come up: {self.log(program)[-3000:]}")
            time.sleep(0.05)

    def _works(self, program: str) -> bool:
        if program == "reconcile":
            # The file lock is taken before anything else is done; the lease's row follows.
            return "epoch" in self.log(program)[-5000:] or "controller" in self.log(program)
        try:
            return requests.get(f"{self.url}/health", timeout=2).status_code == 200
        except requests.ConnectionError:
            return False

    def log(self, program: str) -> str:
        """What the program wrote so far."""
        return (self.folder / f"{program}.log").read_text(errors="replace")

    def stop(self, program: str) -> int:
        """End in good order; its exit code."""
        process = self.processes.pop(program)
        process.terminate()
        return process.wait(30)

    def kill(self, program: str) -> None:
        """As a crash would."""
        process = self.processes.pop(program)
        process.kill()
        process.wait()

    def close(self) -> None:
        """End what runs and remove every container of this runner."""
        for program in list(self.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(program)
        install = self.data / "install-id"
        if self.engine == "docker" and install.exists():
            self.remove_all(install.read_text().strip())

    def remove_all(self, install: str) -> None:
        """Containers, volumes and networks that carry the install's label."""
        chosen = ["--filter", f"label=ci-runner.install={install}"]
        for listing, removal in (
            (["docker", "ps", "-aq"], ["docker", "rm", "-f", "-v"]),
            (["docker", "volume", "ls", "-q"], ["docker", "volume", "rm", "-f"]),
            (["docker", "network", "ls", "-q"], ["docker", "network", "rm"]),
        ):
            names = subprocess.run([*listing, *chosen], capture_output=True, text=True, check=False).stdout.split()
            if names:
                subprocess.run([*removal, *names], capture_output=True, check=False)

    def admin(self, *args: str) -> Done:
        """Run `ci-runner admin …` on the runner's database."""
        return run([sys.executable, "-m", "ci_runner", "admin", *args], env=self.environ())

    def new_user(self, email: str) -> str:
        """Create a user and return a key of it."""
        created = self.admin("user", "create", "--name", email.split("@")[0], "--email", email)
        assert created.code == 0, created.text
        return self.new_key(email)

    def new_key(self, email: str, name: str = "test") -> str:
        """Another key of a user."""
        made = self.admin("key", "create", "--email", email, "--name", name, "--json")
        assert made.code == 0, made.text
        return str(json.loads(made.out)["api_key"])

    def jobs(self, key: str) -> list[dict[str, Any]]:
        """The owner's jobs as the API lists them."""
        answer = requests.get(f"{self.url}/jobs", headers={"Authorization": f"Bearer {key}"}, timeout=10)
        answer.raise_for_status()
        jobs: list[dict[str, Any]] = answer.json()
        return jobs


@dataclass
class Developer:
    """Somebody with a key, a home folder and projects."""

    runner: Runner
    home: Path
    key: str | None

    def environ(self, **extra: str) -> dict[str, str]:
        """The environment of the developer's commands."""
        hidden = ("CI_RUNNER_", "REMOTE_CI_", "CI_API_KEY", "CI_SERVER_URL", "PYTEST_", "XDG_", "COV_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        env |= {"HOME": str(self.home), "REMOTE_CI_URL": self.runner.url, "PYTHONDONTWRITEBYTECODE": "1"}
        if self.key:
            env["REMOTE_CI_API_KEY"] = self.key
        return env | extra

    def remote_ci(self, *args: str, cwd: Path | None = None, timeout: float = 180, **env: str) -> Done:
        """Run `remote-ci ARGS`."""
        command = [sys.executable, "-m", "pytest_remote_ci.cli", *args]
        return run(command, cwd=cwd or self.home, env=self.environ(**env), timeout=timeout)

    def pytest(self, *args: str, cwd: Path, timeout: float = 180, **env: str) -> Done:
        """Run `python -m pytest --remote-ci ARGS`."""
        command = [sys.executable, "-m", "pytest", "--remote-ci", *args]
        return run(command, cwd=cwd, env=self.environ(**env), timeout=timeout)

    def popen(self, *command: str, cwd: Path, **env: str) -> subprocess.Popen[str]:
        """Start a command of the developer's, with pipes."""
        return subprocess.Popen(
            command, cwd=cwd, env=self.environ(**env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


def run(command: list[str], *, env: Mapping[str, str], cwd: Path | None = None, timeout: float = 180) -> Done:
    """Run to the end."""
    done = subprocess.run(
        command, cwd=cwd, env=dict(env), capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def interrupt(process: subprocess.Popen[str], timeout: float = 60) -> Done:
    """Send Ctrl-C and wait for the end."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=timeout)
    return Done(process.returncode, out, err)


@contextlib.contextmanager
def running(folder: Path, **options: Any) -> Iterator[Runner]:
    """A runner with both programs up."""
    runner = Runner(folder, **options)
    try:
        runner.start("serve")
        runner.start("reconcile")
        yield runner
    finally:
        runner.close()
