"""The processes of a container by their ids on this machine, from its control group: no other process gets in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ci_runner.controller.engines.process.supervisor import descendants

_GROUPS: Final = Path("/sys/fs/cgroup")


def of_container(container_id: str, main: int) -> tuple[int, ...]:
    """Return all processes of the container whose main process is `main`; () where the engine's are not our own.

    An engine on another machine, or a runner in a container of its own, names processes that are not there, or are
    something else here: a control group that does not name the container is not believed.
    """
    with contextlib.suppress(OSError, ValueError):
        for path in _groups(main):
            if container_id in path:
                for folder in (_GROUPS, *_hierarchies()):
                    with contextlib.suppress(FileNotFoundError):
                        return tuple(
                            map(int, (folder / path.lstrip("/") / "cgroup.procs").read_text().split())
                        )
                return (main, *descendants(main))
    return ()


def _groups(process: int) -> Iterator[str]:
    for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
        yield line.split(":", 2)[2]


def _hierarchies() -> Iterator[Path]:
    """Yield where version 1 has its groups; they are the same in all that an engine uses."""
    for name in ("pids", "memory", "freezer", "devices", "systemd", "unified"):
        if (_GROUPS / name).is_dir():
            yield _GROUPS / name
