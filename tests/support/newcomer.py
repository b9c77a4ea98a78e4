"""People who have configured nothing: a fresh home folder, and a private runner that the first session starts."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_remote_ci import __version__
from pytest_remote_ci.client.embedded_runner import _is_alive, folder
from support.developer import Done, run
from support.runner import Runner
from support.waiting import wait_until

#: An address at which no engine is.
NO_ENGINE = "unix:///none/docker.sock"


@dataclass
class Newcomer:
    """Somebody with a fresh home folder who has configured nothing."""

    home: Path
    #: Address of the engine; None: wherever Docker is.
    engine: str | None = NO_ENGINE
    python: str = sys.executable
    version: str = __version__
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def place(self) -> Path:
        """The folder of this version's embedded runner."""
        return folder({}, self.home).with_name(f"runner-{self.version}")

    def environ(self, **extra: str) -> dict[str, str]:
        """What the newcomer's shell has: no setting of any runner."""
        hidden = ("CI_", "REMOTE_CI_", "PYTEST_", "XDG_", "DOCKER_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        env |= {"HOME": str(self.home), "PYTHONDONTWRITEBYTECODE": "1"}
        if self.engine is not None:
            env["DOCKER_HOST"] = self.engine
        return env | extra

    def pytest(self, *args: str, cwd: Path, **env: str) -> Done:
        """`python -m pytest --remote-ci ARGS`."""
        command = [self.python, "-m", "pytest", "--remote-ci", *args]
        return run(command, cwd=cwd, env=self.environ(**env))

    def popen(self, *args: str, cwd: Path, **env: str) -> subprocess.Popen[str]:
        """The same without waiting for its end."""
        command = [self.python, "-m", "pytest", "--remote-ci", *args]
        pipe = subprocess.PIPE
        self.started.append(
            subprocess.Popen(
                command,
                cwd=cwd,
                env=self.environ(**env),
                stdout=pipe,
                stderr=pipe,
                stdin=subprocess.DEVNULL,
                text=True,
            )
        )
        return self.started[-1]

    def announced(self) -> dict[str, Any] | None:
        """What the runner says about itself; None when none does."""
        try:
            said: dict[str, Any] = json.loads((self.place / "runner.json").read_text())
        except FileNotFoundError:
            return None
        return said

    def runner(self) -> dict[str, Any]:
        """The announcement of the runner that must be there."""
        said = self.announced()
        assert said is not None, "no runner is announced"
        return said

    def log(self) -> str:
        """The runner's log."""
        return (self.place / "runner.log").read_text()

    def job(self) -> dict[str, Any]:
        """The newest job, as the runner lists it; without a phase when there is none."""
        said = self.runner()
        seen = Runner(self.place / "data", "process", "", url=str(said["url"]), key=str(said["key"]))
        jobs: list[dict[str, Any]] = seen.get("/jobs")
        return jobs[0] if jobs else {"phase": None}

    def close(self) -> None:
        """End the runners of all versions and remove what they have at the engine."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for place in list(self.place.parent.glob("runner-*")):
            said = Newcomer(self.home, version=place.name.partition("-")[2]).announced()
            if said is not None and _is_alive(int(said["pid"])):
                pid = int(said["pid"])
                os.kill(pid, signal.SIGTERM)
                wait_until(functools.partial(_is_gone, pid), 60, what="the runner's end")
            Runner(place / "data", "docker" if self.engine is None else "process", "").remove_from_engine()


def _is_gone(pid: int) -> bool:
    return not _is_alive(pid)


def with_runner(source: Path) -> str:
    """The requirement of this project from a wheel or a folder, with its extra."""
    return f"pytest-remote-ci[runner] @ {source.as_uri()}"


def install(venv: Path, what: str, *, base: str = sys.executable) -> str:
    """Install into a new virtual environment, or into this one again; its interpreter."""
    uv = [sys.executable, "-m", "uv"]
    python = str(venv / "bin" / "python")
    if not venv.exists():
        subprocess.run([*uv, "venv", "--quiet", "--python", base, str(venv)], check=True)
    command = [*uv, "pip", "install", "--quiet", "--python", python]
    subprocess.run([*command, "--reinstall-package", "pytest-remote-ci", what], check=True, timeout=180)
    return python
