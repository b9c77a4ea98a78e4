"""A Buildbot of one worker on this machine, to which a developer's changes are sent with ``buildbot try``."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from common import clean_environment

_PACKAGES = ("buildbot==4.3.0", "buildbot-worker==4.3.0")
#: Seconds in which master and worker must be up, or end.
_PATIENCE = 60.0
_CONFIGURATION = """
from buildbot.plugins import schedulers, steps, util, worker

factory = util.BuildFactory([
    steps.Git(repourl={repository!r}, mode="incremental"),
    steps.ShellCommand(command={command!r}, haltOnFailure=True),
])
BuildmasterConfig = {{
    "workers": [worker.Worker("here", "secret")],
    "protocols": {{"pb": {{"port": "tcp:{workers}:interface=127.0.0.1"}}}},
    "schedulers": [
        schedulers.Try_Userpass(
            "try", builderNames=["tests"], port="tcp:{developers}:interface=127.0.0.1", userpass=[("me", "secret")]
        )
    ],
    "builders": [util.BuilderConfig("tests", workernames=["here"], factory=factory)],
    "buildbotURL": "http://127.0.0.1/",
    "buildbotNetUsageData": None,
    "db": {{"db_url": "sqlite:///state.sqlite"}},
}}
"""


@dataclass(frozen=True)
class Buildbot:
    """How a developer's changes get there."""

    #: The folder of its programs.
    programs: Path
    #: Where it takes changes.
    port: int

    def try_command(self) -> list[str]:
        """Return the command that sends the changes of the current folder, and ends with its tests."""
        command = [str(self.programs / "buildbot"), "try", "--connect=pb", f"--master=127.0.0.1:{self.port}"]
        return [
            *command,
            "--username=me",
            "--passwd=secret",
            "--vc=git",
            "--builder=tests",
            "--quiet",
            "--wait",
        ]


@contextmanager
def buildbot(folder: Path, repository: Path, command: list[str]) -> Iterator[Buildbot]:
    """Start one in `folder`, which it makes; its builds run `command` in a checkout of `repository`."""
    import uv

    folder.mkdir()
    environ = clean_environment() | {"HOME": str(folder)}
    programs = folder / "venv" / "bin"
    workers, developers = free_ports(2)

    def run(*words: str | Path) -> None:
        done = subprocess.run(
            words,
            cwd=folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{words[0]} failed:\n{done.stdout[-3000:]}")

    run(uv.find_uv_bin(), "venv", "-q", folder / "venv")
    run(uv.find_uv_bin(), "pip", "install", "-q", "--python", programs / "python", *_PACKAGES)
    run(programs / "buildbot", "create-master", "-q", "master")
    text = _CONFIGURATION.format(
        repository=str(repository), command=command, workers=workers, developers=developers
    )
    (folder / "master" / "master.cfg").write_text(text)
    run(
        programs / "buildbot-worker",
        "create-worker",
        "-q",
        "worker",
        f"127.0.0.1:{workers}",
        "here",
        "secret",
    )
    with ExitStack() as started:
        for program, name in (("buildbot", "master"), ("buildbot-worker", "worker")):
            started.enter_context(
                _service([programs / program, "start", "--nodaemon", name], folder, environ)
            )
        _wait_for(folder / "worker" / "twistd.log", "Connected to buildmaster; worker is ready")
        yield Buildbot(programs, developers)


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody uses now."""
    with ExitStack() as open_sockets:
        found = [open_sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in found]


@contextmanager
def _service(command: list[str | Path], folder: Path, environ: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(_PATIENCE)


def _wait_for(log: Path, words: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not (log.exists() and words in log.read_text(errors="replace")):
        if time.monotonic() > deadline:
            raise SystemExit(f"{log} never said: {words}")
        time.sleep(0.1)
