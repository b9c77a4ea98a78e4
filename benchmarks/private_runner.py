"""A runner for benchmarks: a process of its own on an empty data directory, of which nothing is left afterwards."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common import clean_environment

#: Seconds in which the runner must get ready, or end.
_PATIENCE = 120.0


@dataclass(frozen=True)
class PrivateRunner:
    """Where it is and how to get in."""

    url: str
    key: str
    #: Its process.
    pid: int

    def environ(self, home: Path) -> dict[str, str]:
        """What a client of this runner has in its environment; its caches are below `home`."""
        more = {"HOME": str(home), "REMOTE_CI_URL": self.url, "REMOTE_CI_API_KEY": self.key}
        return clean_environment() | more


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Let the command line choose the runner's engine and base image."""
    parser.add_argument("--engine", default="docker", choices=("docker", "process"))
    parser.add_argument(
        "--base-image", help="for the engine docker [CI_RUNNER_BASE_IMAGE, else the runner's default]"
    )


def parse_with_engine(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the command line's options, with the base image that they and the environment choose."""
    found = parser.parse_args()
    if found.engine == "docker":
        found.base_image = found.base_image or os.environ.get("CI_RUNNER_BASE_IMAGE")
    elif found.base_image:
        parser.error("--base-image: only containers are made from images")
    return found


@contextlib.contextmanager
def private_runner(
    folder: Path, engine: str, image: str | None, settings: dict[str, str] | None = None
) -> Iterator[PrivateRunner]:
    """Start one in `folder`, which must exist; end it with the block. `settings`: environment variables."""
    announcement = folder / "runner.json"
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    command = [sys.executable, "-m", "ci_runner", "serve", "--embedded", "--announce", str(announcement)]
    command += ["--data-dir", str(folder / "data"), "--engine", engine, "--default-python", python]
    command += ["--base-image", image] if image else []
    with (folder / "runner.log").open("wb") as log:
        environ = clean_environment() | (settings or {})
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _PATIENCE
        while not announcement.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the runner did not start:\n{(folder / 'runner.log').read_text()[-3000:]}")
            time.sleep(0.05)
        said = json.loads(announcement.read_text())
        yield PrivateRunner(said["url"], said["key"], process.pid)
    finally:
        process.terminate()
        process.wait(_PATIENCE)
        if engine == "docker":
            _remove_from_engine(folder / "data")


def _remove_from_engine(data: Path) -> None:
    from ci_runner.controller.engines.docker.engine import DockerEngine

    install = data / "install-id"
    if install.exists():
        with contextlib.closing(DockerEngine(install.read_text().strip(), scratch=data)) as engine:
            engine.uninstall()
