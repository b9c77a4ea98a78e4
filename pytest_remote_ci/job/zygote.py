"""A pytest process that is started before its job: imports pytest, waits, and becomes the job's process.

It imports what every session does, pytest with its own plugins and what those need, and what earlier jobs of the
project imported and takes long (`preload`). Nothing that a project or its plugins could see or change before their own
code runs, and never a project's own module. If anything of that is
in doubt once the job is known, the process starts its program anew, which keeps its process id. Standard library and
pytest only.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypedDict

    class Preload(TypedDict):
        """What the worker sends at once."""

        modules: list[str]

    class Order(TypedDict):
        """What the worker sends."""

        argv: list[str]
        cwd: str
        env: dict[str, str]
        #: Whether what was imported may be used.
        reuse: bool


def wait(
    load_pytest: Callable[[], None],
    load_modules: Callable[[Sequence[str]], None],
    restart_clocks: Callable[[], None],
    ready: str,
) -> list[str]:
    """Import pytest and other modules, make the file `ready`, wait for the job; return its `boot` mode and arguments.

    Ends the process if there will be no job.
    """
    before, environ = set(sys.modules), dict(os.environ)
    first: Preload = json.loads(_receive())
    fit = _load_quietly(load_pytest) and _load_quietly(lambda: load_modules(first["modules"]))
    changed = {name: value for name, value in os.environ.items() if environ.get(name) != value}
    gc.collect()
    os.close(os.open(ready, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644))
    order: Order = json.loads(_receive())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    own = {name.partition(".")[0] for name in sys.modules.keys() - before}
    if not (fit and order["reuse"] and not _hidden(own, order["cwd"])):
        _start_anew(order)
    return _become(order, changed, restart_clocks)


def _load_quietly(preload: Callable[[], None]) -> bool:
    """Return whether the imports neither failed nor warned: a session shows warnings that it sees itself."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            preload()
        except Exception:
            return False
    return not seen


def _receive() -> bytes:
    """Return a line of the worker's."""
    data = b""
    while not data.endswith(b"\n"):
        more = os.read(0, 65536)
        if not more:
            os._exit(0)
        data += more
    return data


def _hidden(modules: set[str], cwd: str) -> bool:
    """Return whether a file of the project could have been imported instead of one of `modules`."""
    folders = [cwd, *(path for path in sys.path if path == cwd or path.startswith(f"{cwd}/"))]
    for folder in folders:
        try:
            names = os.listdir(folder)
        except OSError:
            return True
        if modules.intersection(name.partition(".")[0] for name in names):
            return True
    return False


def _start_anew(order: Order) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    os.chdir(order["cwd"])
    os.execve(order["argv"][0], order["argv"], order["env"])  # noqa: S606  # the command is the job


def _become(order: Order, changed: dict[str, str], restart_clocks: Callable[[], None]) -> list[str]:
    """Make the process what a fresh one would be for this order; `changed`: variables that imports have set."""
    os.environ.clear()
    os.environ.update({**order["env"], **changed})
    os.chdir(order["cwd"])
    boot = order["argv"].index(sys.argv[0])
    sys.argv[1:] = order["argv"][boot + 1 :]
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[:] = order["argv"]
    importlib.invalidate_caches()
    restart_clocks()
    random = sys.modules.get("random")
    if random is not None:
        random.seed()
    return sys.argv[1:]
