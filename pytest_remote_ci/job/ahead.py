"""The worker's part of a warm start: a container that was started before its job, and waits for it.

The worker's first file describes an earlier job of the same user, project and environment. With it, everything is
done that does not depend on the job itself: a process is started that imports pytest and then waits (`boot`, mode
``wait``). The controller then freezes the container, so that nothing in it runs until a job takes it, writes the
job's own file, and lets it go on. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .restart import Recording
    from .worker import Job, Spool

    #: `worker.start` and `worker.environment`, which is the main module.
    Start = Callable[[Job, Spool, "dict[str, str]", "int | None", "int | None"], int]
    Environment = Callable[[Job, "dict[str, str]"], "dict[str, str]"]

#: Seconds between looks for the job's file. The container is frozen meanwhile, so hardly any of them are made.
PAUSE = 0.003
#: Variables that differ between jobs, and are read only after the process has got its job.
OF_ONE_JOB = frozenset({"REMOTE_CI_JOB", "REMOTE_CI_COLUMNS", "REMOTE_CI_RECORDS", "REMOTE_CI_AGES"})
#: Variables by which libraries read files of the project while the interpreter starts.
_READ_AT_START = ("COVERAGE_", "COV_CORE_")
#: What has to be equal for the waiting process to run a job.
_SAME = ("protocol", "cwd", "path", "kept", "recorded", "restarts", "memory", "file_size", "shm_size", "git")


class Waiting:
    """A process that has imported pytest and waits to become that of a job's command."""

    def __init__(
        self,
        template: Job,
        folder: str,
        spool: Spool,
        recording: Recording,
        start: Start,
        environment: Environment,
    ) -> None:
        """Start it, with the socket of `recording`; it makes the file `ready` in the spool's `folder`."""
        self.recording = recording
        self._template, self._spool = template, spool
        self._more = {"REMOTE_CI_CAPTURED": str(recording.connect())}
        passed_on = int(self._more["REMOTE_CI_CAPTURED"])
        reading, self._there = os.pipe()
        early: Job = {**template, "argv": [*prefix(template), "wait", os.path.join(folder, "ready")]}
        self._environment = environment
        self._pid = start(early, spool, self._more, passed_on, reading)
        os.close(reading)
        self._send({"modules": template.get("preload", [])})

    def suits(self, job: Job) -> bool:
        """Return whether the process can run a job, be it by starting its program anew."""
        template: Mapping[str, object] = self._template
        return prefix(job) == prefix(self._template) and all(
            job.get(key) == template.get(key) for key in _SAME
        )

    def run(self, job: Job) -> int:
        """Let the process run a job; return its id. It starts its program anew if anything differs that it read."""
        sizes = self._spool.sizes()
        quiet = not (sizes["stdout"] or sizes["stderr"])
        same = lasting(job["env"]) == lasting(self._template["env"])
        same = same and not any(name.startswith(_READ_AT_START) for name in job["env"])
        env = self._environment(job, self._more)
        order = {"argv": job["argv"], "cwd": job["cwd"], "env": env, "reuse": quiet and same}
        self._send(order)
        os.close(self._there)
        return self._pid

    def _send(self, message: Mapping[str, object]) -> None:
        data = json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError):  # it has ended, which the caller finds out
            while data:
                data = data[os.write(self._there, data) :]

    def end(self) -> None:
        """Kill the process."""
        with contextlib.suppress(OSError):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._there)


def prefix(job: Job) -> list[str]:
    """Return the interpreter, its options and the program that starts pytest; [] for another command."""
    boot = os.path.join(os.path.dirname(os.path.abspath(__file__)), "boot.py")
    argv = job["argv"]
    return argv[: argv.index(boot) + 1] if boot in argv else []


def lasting(env: dict[str, str]) -> dict[str, str]:
    """Return the variables that programs may read while they start."""
    return {name: value for name, value in env.items() if name not in OF_ONE_JOB}


def mark_ready(folder: str) -> None:
    """Tell the controller that nothing more is to be done before the job."""
    os.close(os.open(os.path.join(folder, "ready"), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644))


def await_job(folder: str, is_stopped: Callable[[], bool]) -> Job | None:
    """Wait for the job's file and return its content; None if the wait is ended."""
    path = os.path.join(folder, "job.json")
    while not is_stopped():
        with contextlib.suppress(FileNotFoundError):
            with open(path, encoding="utf-8") as file:
                job: Job = json.load(file)
            os.unlink(path)
            return job
        time.sleep(PAUSE)
    return None


def bring_up_to_date(folder: str, workspace: str, changes: list[tuple[str, str | None, int]]) -> None:
    """Change the workspace of the earlier job into that of this one, through its mount.

    `changes`: paths, each with the name of its new content in the spool's `changes` (None: it is removed) and its mode.
    """
    for path, name, mode in changes:
        target = os.path.join(workspace, path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)
        if name is not None:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            _copy(os.path.join(folder, "changes", name), target, mode)


def _copy(source: str, target: str, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(source, "rb") as reading, open(os.open(target, flags, 0o600), "wb") as writing:
        writing.write(reading.read())
        writing.flush()
        status = os.fstat(reading.fileno())
        os.fchmod(writing.fileno(), stat.S_IMODE(mode))
        os.utime(writing.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
