"""Process ids of a container on this machine, read from its control group, so that no other process is included."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ci_runner.controller.engines.process.supervisor import descendants

_GROUPS: Final = Path("/sys/fs/cgroup")


def of_container(container_id: str, main: int) -> tuple[int, ...]:
    """Return all processes of the container with the main process `main`; () if the ids are not this machine's.

    An engine on another machine, or a runner in a container, gets ids that do not exist in this /proc or belong to
    other processes there. So a control group that does not name the container is ignored.
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
    """Yield the folders of version 1's hierarchies; all that an engine uses have the same groups."""
    for name in ("pids", "memory", "freezer", "devices", "systemd", "unified"):
        if (_GROUPS / name).is_dir():
            yield _GROUPS / name
