"""Places where a test may kill, delay or break the runner: pairs around every commit and engine call.

Off unless ``CI_RUNNER_ALLOW_FAILPOINTS=1`` is set when the process starts. Then ``CI_RUNNER_FAILPOINTS`` defines the
actions, for instance ``controller.launch.created=kill@2;server.submit.committed=sleep:5``: at the second hit of the
first, the process kills itself with SIGKILL (nothing is cleaned up); at each hit of the second, it sleeps 5 seconds.
``raise`` raises `FailpointError`. ``CI_RUNNER_FAILPOINT_TRACE`` names a file to which each reached name is appended,
so that a test can prove that every registered failpoint is reached.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Final

#: Every failpoint of the product with its place. `hit` refuses other names.
REGISTRY: Final[dict[str, str]] = {}


class FailpointError(RuntimeError):
    """The error raised by a failpoint set to ``raise``."""


class _Active:
    """The configuration from the environment, read once."""

    def __init__(self) -> None:
        self.allowed = os.environ.get("CI_RUNNER_ALLOW_FAILPOINTS") == "1"
        self.trace = os.environ.get("CI_RUNNER_FAILPOINT_TRACE")
        self.actions: dict[str, tuple[str, int | None]] = {}
        self.hits: dict[str, int] = {}
        self.lock = threading.Lock()
        if self.allowed:
            for part in filter(None, os.environ.get("CI_RUNNER_FAILPOINTS", "").split(";")):
                name, _, action = part.partition("=")
                action, _, nth = action.partition("@")
                self.actions[name.strip()] = (action.strip(), int(nth) if nth else None)


_active = _Active()


def register(name: str, where: str) -> str:
    """Declare a failpoint at import; return the name for use as a constant."""
    REGISTRY[name] = where
    return name


def hit(name: str) -> None:
    """Pass a failpoint; costs almost nothing unless failpoints are allowed."""
    if not _active.allowed:
        return
    if name not in REGISTRY:
        raise FailpointError(f"failpoint {name!r} is not registered")
    with _active.lock:
        count = _active.hits[name] = _active.hits.get(name, 0) + 1
        if _active.trace and count == 1:
            with Path(_active.trace).open("a") as file:
                file.write(name + "\n")
    action, nth = _active.actions.get(name, ("", None))
    if not action or (nth is not None and nth != count):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action.startswith("sleep:"):
        time.sleep(float(action.removeprefix("sleep:")))
    elif action == "raise":
        raise FailpointError(f"failpoint {name}")
    else:
        raise FailpointError(f"failpoint {name}: unknown action {action!r}")
