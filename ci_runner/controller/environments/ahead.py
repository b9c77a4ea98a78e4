"""`AheadContainers`: what containers that are started before their job need, and which job may take one.

A container takes a job only if the job's own container would be the same but for its name and its own folders, except
for two layers of its workspace: the tree may differ in a few files, which are changed before the job starts, and the
kept files have to be equal.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ci_runner.controller.engine import SPOOL, Bind, ContainerSpec, Overlay
from ci_runner.controller.environments import worker_command
from ci_runner.controller.environments.container_specs import ContainerSpecs, Prepared
from ci_runner.controller.environments.job_folders import JobFolders
from ci_runner.controller.environments.workspaces import Workspaces
from ci_runner.errors import RunnerError
from ci_runner.model.job import Job
from ci_runner.storage.safe_fs import Trash, opened_folder, read_plain_file
from pytest_remote_ci.job import preload
from pytest_remote_ci.wire.protocol import ManifestEntry

_log = logging.getLogger(__name__)

#: Prepares a job without building anything; the second argument says whether to stop.
PrepareUnbuilt = Callable[[Job, Callable[[], bool]], Prepared]

#: Most files, and their bytes, that may differ from the workspace that a container was started with.
MOST_CHANGES: Final = 200
MOST_BYTES: Final = 8 << 20
#: Bytes that are read of what a job wrote about its imports.
_MOST_IMPORTED: Final = 1 << 18
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


class AheadContainers:
    """Prepares such containers, and hands them over to jobs; see the module. Thread-safe."""

    def __init__(
        self,
        prepare: PrepareUnbuilt,
        specs: ContainerSpecs,
        workspaces: Workspaces,
        folders: JobFolders,
        trash: Trash,
        *,
        prefix: str,
        owner: int | None,
        may_wait: Callable[[Job], bool],
    ) -> None:
        """`prefix`: of the names of containers; `may_wait`: whether jobs like this one may get such a container."""
        self._prepare = prepare
        self._specs = specs
        self._workspaces = workspaces
        self._folders = folders
        self._trash = trash
        self._prefix = prefix
        self._owner = owner
        self._may_wait = may_wait
        self._guard = threading.Lock()
        #: What stands for the id of a job to come → what must not be evicted until then.
        self._in_use: dict[str, frozenset[str]] = {}

    def imported(self, job: Job) -> tuple[str, ...]:
        """Return which modules a job that has ended wrote that it imported; read it before its folders go."""
        try:
            with opened_folder(self._folders.of(job.id, job.attempt), "spool") as spool:
                content = read_plain_file(spool, preload.FILE, _MOST_IMPORTED) or b""
        except OSError:
            return ()
        lines = content.decode("utf-8", "replace").split("\n")
        return tuple(filter(preload.is_wanted, lines))[: preload.MOST]

    def prepare(self, job: Job, imported: tuple[str, ...], stopping: Callable[[], bool]) -> Ahead | None:
        """Return a container like that of an ended job, with its folders; None if there is none.

        `imported`: modules that its process imports.
        """
        if not self._may_wait(job):
            return None
        token = f"ahead{uuid.uuid4().hex[:16]}"
        model = replace(job, id=token)
        with self._guard:
            self._in_use[token] = frozenset(filter(None, (job.environment, job.workspace)))
        made = None
        try:
            prepared = self._prepare(model, stopping)
            if prepared.python and not (prepared.kept and prepared.kept.links):
                made = self._make(model, prepared, imported)
            return made
        except RunnerError as error:
            _log.info("no container waits for the next job like %s: %s", job.id, error)
            return None
        finally:
            if made is None:
                self._drop(token)

    def _make(self, model: Job, prepared: Prepared, imported: tuple[str, ...]) -> Ahead:
        work = self._folders.of(model.id, 1)
        self._folders.make(work)
        description = self._specs.description(model, prepared, work)
        worker_command.write_ahead(work, {**description, "preload": list(imported)}, self._owner)
        spec = replace(
            self._specs.spec(model, prepared, 1),
            name=f"{self._prefix}{model.id}",  # unlike a job's, it does not end in an attempt
            job_id="",
            attempt=0,
            ahead_of=self._prefix,
        )
        return Ahead(model.id, spec, self._layers(model, prepared), prepared.key)

    def _layers(self, job: Job, prepared: Prepared) -> Layers:
        digest = job.workspace or ""
        kept = prepared.kept.project if prepared.kept is not None else None
        return Layers(digest, self._workspaces.tree(digest), kept)

    def is_ready(self, ahead: Ahead) -> bool:
        """Return whether a started one has done all that it can without its job."""
        return os.path.lexists(self._folders.of(ahead.token, 1) / "spool" / "ready")

    def is_for(self, ahead: Ahead, job: Job, prepared: Prepared, attempt: int) -> bool:
        """Return whether a job may take it."""
        if not self._may_wait(job) or self._folders.of(job.id, attempt).exists():
            return False
        spec, layers = self._specs.spec(job, prepared, attempt), self._layers(job, prepared)
        if spec.kept is not None or not is_alike(ahead.spec, ahead.layers, spec, layers):
            return False
        changes = self._workspaces.changes(ahead.layers.workspace, layers.workspace)
        return changes is not None and are_few(changes)

    def hand_over(self, ahead: Ahead, job: Job, prepared: Prepared, attempt: int) -> str:
        """Make its folders those of the job's attempt, with the job's files; return its name from now on.

        The container is frozen. Its mounts follow the folders, whatever their names are.
        """
        work = self._folders.of(job.id, attempt)
        self._folders.of(ahead.token, 1).rename(work)
        own = self._folders.of(ahead.token, "own")
        if own.is_dir():
            own.rename(self._folders.of(job.id, "ahead"))
        with self._guard:
            self._in_use.pop(ahead.token, None)
        description = self._specs.description(job, prepared, work)
        mount = prepared.workspace or prepared.mount_point
        changes = self._write_changes(work / "spool" / "changes", ahead, job)
        worker_command.deliver(work, {**description, "workspace": mount, "changes": changes}, self._owner)
        return f"{self._prefix}{job.id}-{attempt}"

    def _write_changes(self, folder: Path, ahead: Ahead, job: Job) -> list[tuple[str, str | None, int]]:
        """Copy the files that differ into a new folder; return path, name there (None: removed) and mode of each."""
        changed = self._workspaces.changes(ahead.layers.workspace, job.workspace or "") or []
        folder.mkdir(mode=0o755)
        changes: list[tuple[str, str | None, int]] = []
        for number, entry in enumerate(changed):
            if isinstance(entry, str):
                changes.append((entry, None, 0))
            else:
                self._workspaces.copy_content(entry, folder / str(number))
                changes.append((entry.path, str(number), entry.mode))
        return changes

    def was_handed_over(self, job_id: str, attempt: int) -> bool:
        """Return whether the folder of the attempt has all of the job's files."""
        return (self._folders.of(job_id, attempt) / "delivered").exists()

    def remove_attempt(self, job_id: str, attempt: int) -> None:
        """Remove the folder of an attempt that has not begun."""
        self._trash.remove(self._folders.of(job_id, attempt))

    def forget(self, ahead: Ahead) -> None:
        """Remove its folders; its container must be gone."""
        self._drop(ahead.token)

    def is_waiting(self, token: str) -> bool:
        """Return whether this stands for the id of a job to come, whose folders are in use."""
        with self._guard:
            return token in self._in_use

    def in_use(self) -> frozenset[str]:
        """Return what must not be evicted: digests of workspaces and `Prepared.key`s."""
        with self._guard:
            return frozenset().union(*self._in_use.values())

    def _drop(self, token: str) -> None:
        with self._guard:
            self._in_use.pop(token, None)
        for folder in self._folders.all_of(token):
            self._trash.remove(folder)


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
