"""People who use a runner in end-to-end tests: a key, a home folder, projects and the commands they type."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.runner import Runner

#: Projects that tests copy.
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"

_HIDDEN = ("CI_RUNNER_", "REMOTE_CI_", "CI_API_KEY", "CI_SERVER_URL", "PYTEST_", "XDG_")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both outputs."""
        return self.out + self.err


@dataclass(frozen=True)
class Developer:
    """Somebody with a key and a home folder."""

    runner: Runner
    home: Path
    key: str | None
    #: The Python whose `pytest` and `remote-ci` are typed.
    python: str = sys.executable

    def environ(self, **extra: str) -> dict[str, str]:
        """The environment of the developer's commands."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(_HIDDEN)}
        for name in ("CI", "BUILD_NUMBER"):  # where these are, pytest shows more
            env.pop(name, None)
        env |= {
            "HOME": str(self.home),
            "REMOTE_CI_URL": self.runner.public_url,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if self.key:
            env["REMOTE_CI_API_KEY"] = self.key
        return env | extra

    def remote_ci(self, *args: str, cwd: Path | None = None, timeout: float = 180, **variables: str) -> Done:
        """Run `remote-ci ARGS`."""
        command = [self.python, "-m", "pytest_remote_ci.cli.main", *args]
        return run(command, cwd=cwd or self.home, env=self.environ(**variables), timeout=timeout)

    def pytest(
        self,
        *args: str,
        cwd: Path,
        timeout: float = 180,
        env: Mapping[str, str] | None = None,
        **variables: str,
    ) -> Done:
        """Run `python -m pytest --remote-ci ARGS`."""
        command = [self.python, "-m", "pytest", "--remote-ci", *args]
        return run(command, cwd=cwd, env=self.environ(**{**variables, **(env or {})}), timeout=timeout)

    def popen(self, *command: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
        """Start a command of the developer's, with pipes."""
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=self.environ(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def jobs(self) -> list[dict[str, Any]]:
        """The developer's jobs, newest first, as the API lists them."""
        jobs: list[dict[str, Any]] = self.runner.get("/jobs", self.key)
        return jobs


def make_developer(runner: Runner, folder: Path) -> Developer:
    """A user whom nobody else has, with a home below `folder`."""
    name = f"dev{next(_numbers)}"
    home = folder / f"home-{name}"
    home.mkdir()
    return Developer(runner, home, runner.make_user(f"{name}@example.org")[1])


def run(command: list[str], *, env: Mapping[str, str], cwd: Path | None = None, timeout: float = 180) -> Done:
    """Run to the end."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=dict(env),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def interrupt(process: subprocess.Popen[str], timeout: float = 60) -> Done:
    """Send Ctrl-C and wait for the end."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=timeout)
    return Done(process.returncode, out, err)


def outcomes(done: Done) -> dict[str, str]:
    """What ``-v`` says of each test of `test_it.py`."""
    return dict(re.findall(r"^test_it\.py::(\S+) (\w+) ", done.out, re.MULTILINE))


def rest(process: subprocess.Popen[str], seen: str) -> Done:
    """What a command whose first lines were `seen` came to."""
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        out, err = seen + process.stdout.read(), process.stderr.read()
    return Done(process.returncode, out, err)
