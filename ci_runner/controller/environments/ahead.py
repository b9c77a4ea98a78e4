"""Which container that was started ahead may run a job: comparison of specs, and of the files in them.

A container takes a job only if the job's own container would be the same but for its name and its own folders, except
for two layers of its workspace: the tree may differ in a few files, which are changed before the job starts, and the
kept files have to be equal.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ci_runner.controller.engine import SPOOL, Bind, ContainerSpec, Overlay
from pytest_remote_ci.wire.protocol import ManifestEntry

#: Most files, and their bytes, that may differ from the workspace that a container was started with.
MOST_CHANGES: Final = 200
MOST_BYTES: Final = 8 << 20
#: Most kept files that are compared.
_MOST_KEPT: Final = 2000
_ANY: Final = Path("/")


@dataclass(frozen=True)
class Layers:
    """The layers of a workspace that may differ between two jobs of a project."""

    #: Digest of the workspace, and its folder.
    workspace: str
    tree: Path
    kept: Path | None


@dataclass(frozen=True)
class Ahead:
    """A container that is started before its job."""

    #: Stands for the job's id in names of folders and containers.
    token: str
    spec: ContainerSpec
    layers: Layers
    #: Not to be evicted while the container waits, like `Prepared.key`.
    environment: str

    @property
    def keys(self) -> frozenset[str]:
        """Return what must not be evicted."""
        return frozenset({self.environment, self.layers.workspace})


def is_alike(one: ContainerSpec, one_layers: Layers, other: ContainerSpec, other_layers: Layers) -> bool:
    """Return whether two containers differ only in what belongs to one job."""
    return (
        one.kept is None
        and _essence(one, one_layers) == _essence(other, other_layers)
        and _files(one_layers.kept) == _files(other_layers.kept) is not None
    )


def are_few(changes: list[ManifestEntry | str]) -> bool:
    """Return whether a container's workspace may be changed like this before the job starts."""
    size = sum(entry.size for entry in changes if not isinstance(entry, str))
    return len(changes) <= MOST_CHANGES and size <= MOST_BYTES


def _essence(spec: ContainerSpec, layers: Layers) -> tuple[ContainerSpec, tuple[tuple[Path, object], ...]]:
    """Return the spec without what belongs to one job, and the identities of what it mounts."""
    overlay = spec.overlay
    assert overlay is not None
    own = {layers.tree, layers.kept}
    shared = tuple(lower for lower in overlay.lowers if lower not in own)
    # Where the job's own layers are among the others matters, too.
    order = tuple(_ANY if lower in own else lower for lower in overlay.lowers)
    binds = tuple(bind if bind.target != SPOOL else Bind(_ANY, SPOOL, read_only=False) for bind in spec.binds)
    general = replace(
        spec,
        name="",
        job_id="",
        attempt=0,
        ahead_of=None,
        binds=binds,
        overlay=Overlay(order, _ANY, _ANY, overlay.target),
        known={},
    )
    mounted = (*shared, *(bind.source for bind in binds))
    return general, tuple((path, spec.known.get(path)) for path in mounted)


def _files(folder: Path | None) -> list[tuple[str, int, int, int]] | None:
    """Return path, mode, size and time of all entries, in order; None if there are too many."""
    found = []
    for entry in _walk(os.fspath(folder)) if folder is not None else ():
        found.append(entry)
        if len(found) > _MOST_KEPT:
            return None
    return sorted(found)


def _walk(top: str, below: str = "") -> Iterator[tuple[str, int, int, int]]:
    with os.scandir(f"{top}/{below}") as entries:
        for entry in entries:
            status, path = entry.stat(follow_symlinks=False), f"{below}{entry.name}"
            if stat.S_ISDIR(status.st_mode):
                yield path, status.st_mode, 0, 0
                yield from _walk(top, f"{path}/")
            else:
                yield path, status.st_mode, status.st_size, status.st_mtime_ns
