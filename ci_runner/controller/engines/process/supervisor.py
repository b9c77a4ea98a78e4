"""Supervisor of one command of the process engine; a program that outlives the runner, standard library only.

``python -I -S supervisor.py FOLDER`` detaches itself, starts the command in ``FOLDER/spec.json`` and ends with it.
TERM is passed to the command; USR1 kills the whole tree. Every descendant, daemons included, stays a descendant
(subreaper), and none is left when ``exit.json`` appears. It writes two files, each atomically: `started` (the
supervisor's id and start time) and `exit.json` (how the command ended).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

#: Seconds of trying to kill a tree that keeps forking.
KILL_PATIENCE = 10.0
_PR_SET_CHILD_SUBREAPER = 36
_SIGNALS = {signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD}


def birth(pid: int) -> str | None:
    """Return what distinguishes a process from later ones with its id; None if it does not exist or is a zombie."""
    try:
        # The name (in parentheses) may contain anything; state is the first field after it, start time the 20th.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    return None if fields[0] in "ZX" else fields[19]


def descendants(root: int) -> list[int]:
    """Return all living processes below `root`; empty without /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir() if Path("/proc/self").exists() else ():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    todo = [root]
    while todo:
        below = children.get(todo.pop(), [])
        found.extend(below)
        todo.extend(below)
    return found


def write_json(path: Path, value: object) -> None:
    """Replace a file atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)


def claim(folder: Path) -> bool:
    """Become the one supervisor of this container; return False if there is, or was, one."""
    temporary = folder / f".started.{os.getpid()}"
    mine = {"pid": os.getpid(), "birth": birth(os.getpid()), "at": time.time()}
    temporary.write_text(json.dumps(mine))
    try:
        os.link(temporary, folder / "started")
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def set_limits(limits: dict[str, int]) -> None:
    """Set limits per process, capped by the runner's own; ``soft_NAME`` is a soft limit of its own."""
    for name, value in limits.items():
        if name.startswith("soft_"):
            continue
        kind = getattr(resource, f"RLIMIT_{name.upper()}")
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        soft = min(value, limits.get(f"soft_{name}", value))
        resource.setrlimit(kind, (soft, value))


def become_subreaper() -> None:
    """Adopt orphaned descendants, in place of init (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap(main: int) -> int | None:
    """Reap all ended children; return the wait status of `main` if it is among them."""
    result = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return result
        if pid == 0:
            return result
        if pid == main:
            result = status


def kill_all(main: int) -> int | None:
    """KILL all descendants until none is left; return the wait status of `main` if it ended meanwhile."""
    result = None
    deadline = time.monotonic() + KILL_PATIENCE
    while time.monotonic() < deadline:
        below = descendants(os.getpid())
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(main, signal.SIGKILL)
        status = reap(main)
        result = status if status is not None else result
        if not below:
            break
        time.sleep(0.005)
    return result


def supervise(folder: Path, started: Callable[[], None]) -> None:
    """Run the command to its end. Calls `started` once it runs or has failed to start."""
    spec = json.loads((folder / "spec.json").read_text())
    become_subreaper()
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        set_limits(spec["limits"])

    try:
        process = subprocess.Popen(
            spec["argv"],
            env=spec["env"],
            cwd=spec["cwd"],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=prepare,  # this process has one thread
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        code = 126 if isinstance(error, PermissionError) else 127
        write_json(folder / "exit.json", {"code": code, "error": str(error), "at": time.time()})
        started()
        return
    started()
    status = None
    while status is None:
        received = signal.sigwait(_SIGNALS)
        if received == signal.SIGCHLD:
            status = reap(process.pid)
        elif received == signal.SIGUSR1:
            status = kill_all(process.pid)
        else:
            os.kill(process.pid, signal.SIGTERM)
    kill_all(process.pid)
    process.returncode = code = os.waitstatus_to_exitcode(status)
    write_json(folder / "exit.json", {"code": code if code >= 0 else 128 - code, "at": time.time()})


def main(folder: Path) -> int:
    """Detach and supervise; the first process returns once the command runs or has failed to start."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        os.read(reading, 1)
        return 0
    os.close(reading)
    os.setsid()
    if claim(folder):
        supervise(folder, lambda: os.close(writing))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
