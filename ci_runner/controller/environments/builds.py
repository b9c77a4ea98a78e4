"""Build containers: run one to its end in a separate cell, with its output in the job's log, and return its result.

`environments` decides the steps and the use of the result; the program in the container is
`pytest_remote_ci.job.builder`. All data from such a container may come from foreign code and is read accordingly:
through descriptors of the cell and, except for output and result, only once the engine confirms that the container is
gone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from ci_runner import failpoints
from ci_runner.controller.cleanup import open_files
from ci_runner.controller.cleanup.disk_watchdog import sizes_below
from ci_runner.controller.engine import (
    SPOOL,
    STORE,
    TOOLS,
    Bind,
    ContainerSpec,
    Engine,
    Limits,
    Overlay,
)
from ci_runner.controller.environments.cells import CachePlace, Cell, Cells
from ci_runner.controller.environments.places import BuildPlaces, PreparationStopped
from ci_runner.errors import EngineUnavailable, EnvironmentFailed, PermanentError
from ci_runner.model.verdict import first_line
from ci_runner.storage.safe_fs import read_plain_file
from pytest_remote_ci.wire import formats

if TYPE_CHECKING:
    from pytest_remote_ci.job.builder import Step

_log = logging.getLogger(__name__)

_CREATED = failpoints.register("controller.build.created", "a build container is created, not started")
_STARTED = failpoints.register("controller.build.started", "a build container is started")
_ENDED = failpoints.register("controller.build.ended", "a build container has ended and is not removed")

#: Seconds between checks of the output, and between queries of the engine.
_POLL: Final = 0.02
_ASK: Final = 0.5
#: A measurement of what a build wrote is followed by a pause of this many times its duration.
_PAUSE: Final = 4
#: Maximum bytes of output for the log, and of a result.
_OUTPUT_LIMIT: Final = 4 << 20
_RESULT_LIMIT: Final = 8 << 20
_LINE_LIMIT: Final = 4096

#: Finds the base image's interpreter of version $1 and executes it.
_FIND_PYTHON: Final = """
wanted=$1; shift
IFS=:
for folder in $PATH /usr/local/bin /usr/bin /opt/python/bin "/opt/python/$wanted/bin"; do
  for python in "$folder/python$wanted" "$folder/python3"; do
    if [ -x "$python" ] && [ "$("$python" -I -S -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$wanted" ]
    then exec "$python" -I -S "$@"; fi
  done
done
echo "no Python $wanted in this image" >&2
exit 127
"""


@dataclass(frozen=True)
class Build:
    """One run of the builder."""

    job_id: str
    attempt: int
    image_id: str
    #: "3.12".
    python: str
    steps: tuple[Step, ...]
    #: The package cache to borrow; None: not needed.
    cache: CachePlace | None
    #: Whether foreign code may run in it.
    may_build: bool
    cwd: str
    #: User id of its processes and files, if the engine isolates; None: the runner's.
    owner: int | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Content of a netrc file for its programs.
    netrc: str | None = field(default=None, repr=False)
    binds: tuple[Bind, ...] = ()
    #: Read-only trees, visible and writable at `mount`.
    lowers: tuple[Path, ...] = ()
    mount: str = ""
    #: Folder for writes over `lowers`; None: a folder of the build itself.
    upper: Path | None = None
    #: Maximum processors; None: the default of builds.
    cpus: float | None = None
    network: Literal["egress", "none"] = "egress"
    #: For a build that no open job answers for: seconds, and bytes in its cell, after which it is ended. None: a job's
    #: own limits end it.
    longest: float | None = None
    most_bytes: int | None = None
    #: Whose place it takes (a scope); None: it takes none.
    user: str | None = None


@dataclass(frozen=True)
class Built:
    """The result of a build with its container removed; the cell is removed at the end of the `with` block."""

    result: Mapping[str, object]
    cell: Cell


class Builds:
    """Build containers of one controller. Thread-safe."""

    def __init__(
        self,
        engine: Engine,
        cells: Cells,
        *,
        prefix: str,
        install_id: str,
        owner: int | None,
        limits: Limits,
        places: int,
    ) -> None:
        """Set up builds without starting one.

        `places`: jobs of one user that build at once; `owner`: the uid of jobs, None if it is the runner's.
        """
        self._engine = engine
        self._cells = cells
        self._prefix = f"{prefix}build-{install_id[:8]}-"
        self._owner = owner
        self._limits = limits
        self._places = BuildPlaces(places)
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._recovering = threading.Lock()
        self._looked = False

    def in_use(self) -> frozenset[str]:
        """Return the names of the build containers of calls in flight."""
        with self._lock:
            return frozenset(self._names)

    @contextlib.contextmanager
    def run(
        self, build: Build, tools: Path, *, log: Callable[[str], None], stopping: Callable[[], bool]
    ) -> Iterator[Built]:
        """Run a build; the result's ``ok`` is true on success.

        Raises `EnvironmentFailed` if the container gave no result, `PreparationStopped`, `EngineUnavailable`.
        """
        if not self._engine.probe().isolates:
            # Its processes are the runner's user, and so are the files they make.
            build = replace(build, owner=None)
        self.recover()  # caches borrowed by a crashed controller's builds are needed again
        identity = uuid.uuid4().hex[:16]
        name = self._prefix + identity
        with self._place(build, stopping), self._named(name):
            cell = self._cells.open(identity, build.owner, build.cache)
            job = {
                "protocol": 1,
                "uv": f"{TOOLS}/uv",
                "may_build": build.may_build,
                "cwd": build.cwd,
                "env": dict(build.env),
                "netrc": build.netrc,
                "steps": [dict(step) for step in build.steps],
            }
            write_for(cell.path("spool") / "job.json", json.dumps(job), build.owner)
            # If the engine does not answer, this raises while the container may exist. The cell is then left for
            # `recover`, because the container may still write to it.
            try:
                guard = _Guard(self._engine, build, cell)
                result = self._follow(self._spec(build, name, cell, tools), cell, log, stopping, guard)
            except EngineUnavailable:
                raise
            except BaseException:
                self._end(cell)
                raise
            try:
                self._cells.give_back(cell)
                yield Built(result, cell)
            finally:
                self._throw_away(cell)

    def place(self, user: str, job_id: str, stopping: Callable[[], bool]) -> AbstractContextManager[None]:
        """Take a place for builds of a job of `user` (a scope); see `BuildPlaces.taken`.

        Take it before making something for several users, so that they never wait in the turn of another user.
        """
        return self._places.taken(user, job_id, stopping)

    @contextlib.contextmanager
    def named(self) -> Iterator[str]:
        """Yield the name for the container of a build without a cell, in use meanwhile."""
        name = self._prefix + uuid.uuid4().hex[:16]
        with self._named(name):
            yield name

    def _end(self, cell: Cell) -> None:
        try:
            self._cells.give_back(cell)
        finally:
            self._throw_away(cell)

    def _throw_away(self, cell: Cell) -> None:
        try:
            self._cells.throw_away(cell)
        except OSError as error:  # already hidden; emptying the trash is repeated
            _log.warning("what build %s left cannot be removed yet: %s", cell.name, error)

    def recover(self) -> None:
        """Return caches from the cells of builds without a handled end.

        Their controller ended first, or the engine never confirmed their end. Raises `EngineUnavailable`.
        """
        with self._recovering:
            if not self._looked:
                self._cells.discard_old_stores()
            # In this order: a found cell that is not in use has no container that could still be made.
            found = self._cells.found()
            stale = found - {name.removeprefix(self._prefix) for name in self.in_use()}
            if stale:
                names = [seen.name for seen in self._engine.list() if seen.role == "build"]
                for cell in sorted(stale):
                    if not any(name.endswith(f"-{cell}") for name in names):
                        self._reclaim(cell)
            self._looked = True

    def _reclaim(self, cell: str) -> None:
        try:
            self._cells.reclaim(cell)
        except OSError as error:
            _log.warning("the cell of build %s cannot be removed yet: %s", cell, error)

    def _place(self, build: Build, stopping: Callable[[], bool]) -> AbstractContextManager[None]:
        if build.user is None:
            return contextlib.nullcontext()
        return self.place(build.user, build.job_id, stopping)

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        with self._lock:
            self._names.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._names.discard(name)

    def _spec(self, build: Build, name: str, cell: Cell, tools: Path) -> ContainerSpec:
        overlay = (
            Overlay(build.lowers, build.upper or cell.path("upper"), cell.path("work"), build.mount)
            if build.lowers
            else None
        )
        return ContainerSpec(
            name=name,
            image_id=build.image_id,
            argv=("/bin/sh", "-c", _FIND_PYTHON, "sh", build.python, f"{TOOLS}/builder.py", SPOOL),
            role="build",
            job_id=build.job_id,
            attempt=build.attempt,
            cwd="/",
            binds=(
                Bind(tools, TOOLS),
                Bind(cell.path("spool"), SPOOL, read_only=False),
                Bind(cell.path("store"), STORE, read_only=False),
                *build.binds,
            ),
            overlay=overlay,
            limits=self._limits if build.cpus is None else replace(self._limits, cpus=build.cpus),
            network=build.network,
            uid=build.owner if build.owner != self._owner else None,
            known=cell.known(),
        )

    def _follow(
        self,
        spec: ContainerSpec,
        cell: Cell,
        log: Callable[[str], None],
        stopping: Callable[[], bool],
        guard: _Guard,
    ) -> Mapping[str, object]:
        """Run the container; it is gone when this returns, or raises anything but `EngineUnavailable`."""
        container = self._engine.create(spec)
        try:
            failpoints.hit(_CREATED)
            self._engine.start(container)
            failpoints.hit(_STARTED)
            with cell.opened("spool") as spool:
                output = _Output(spool, log)
                result = self._wait(container, spool, output, stopping, guard)
                output.drain(last=True)
            return result
        except PermanentError as error:
            raise EnvironmentFailed(f"could not build the environment: {first_line(str(error))}") from error
        finally:
            failpoints.hit(_ENDED)
            self._remove(container)

    def _remove(self, container: str) -> None:
        """Remove a container and verify that it is gone; raises `EngineUnavailable` otherwise."""
        self._engine.remove(container)
        if self._engine.inspect(container) is not None:
            raise EngineUnavailable("the build's container cannot be removed")

    def _wait(
        self, container: str, spool: int, output: _Output, stopping: Callable[[], bool], guard: _Guard
    ) -> Mapping[str, object]:
        ask_at = time.monotonic() + _ASK
        while not _exists(spool, "result.json"):
            output.drain()
            if time.monotonic() >= ask_at:
                ask_at = time.monotonic() + _ASK
                if stopping():
                    self._engine.signal(container, "KILL")
                    raise PreparationStopped("stopped while the environment was built")
                self._check(container, spool)
                guard.check(container)
            time.sleep(_POLL)
        content = read_plain_file(spool, "result.json", _RESULT_LIMIT + 1)
        try:
            result = json.loads(content or b"") if len(content or b"") <= _RESULT_LIMIT else None
        except (ValueError, RecursionError) as error:
            raise EnvironmentFailed("the build wrote no readable result") from error
        if not isinstance(result, dict):
            raise EnvironmentFailed("the build wrote no readable result")
        return result

    def _check(self, container: str, spool: int) -> None:
        """Raise if the container has ended without a result."""
        seen = self._engine.inspect(container)
        if seen is not None and seen.state not in ("exited", "dead"):
            return
        if _exists(spool, "result.json"):
            return
        if seen is None:
            raise EnvironmentFailed("the build container no longer exists")
        if seen.oom_killed:
            limit = formats.size(self._limits.memory)
            raise EnvironmentFailed(f"the environment build ran out of memory ({limit})")
        words = seen.error or first_line(self._engine.output(container) or f"exit code {seen.exit_code}")
        raise EnvironmentFailed(f"the environment build ended early: {words}")


class _Guard:
    """The limits of a build that are checked from outside, while its container runs."""

    def __init__(self, engine: Engine, build: Build, cell: Cell) -> None:
        self._engine = engine
        self._longest = build.longest
        self._most_bytes = build.most_bytes
        self._cell = cell
        self._began = time.monotonic()
        self._due = 0.0

    def check(self, container: str) -> None:
        """Raise `EnvironmentFailed` for a build above its limits."""
        now = time.monotonic()
        if self._longest is not None and now > self._began + self._longest:
            raise EnvironmentFailed(f"the build took longer than {formats.duration(self._longest)}")
        if self._most_bytes is None or now < self._due:
            return
        if not self._fits(container, self._most_bytes):
            raise EnvironmentFailed(f"the build wrote more than {formats.size(self._most_bytes)}")
        self._due = time.monotonic() + _PAUSE * (time.monotonic() - now)

    def _fits(self, container: str, most: int) -> bool:
        written = (sizes_below(self._cell.path(part)) for part in ("store", "spool"))
        held = open_files.unnamed_bytes(self._engine.footprint(container).processes)
        total = 0
        for size in itertools.chain(*written, held):
            total += size
            if total > most:
                return False
        return True


def _exists(folder: int, name: str) -> bool:
    """Return whether anything of that name exists, without following a link."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:  # absent, or in a folder that its owner closed
        return False
    return True


class _Output:
    """The builder's output file, followed line by line."""

    def __init__(self, spool: int, log: Callable[[str], None]) -> None:
        """Follow the file in the folder with the descriptor `spool`."""
        self._spool = spool
        self._log = log
        self._offset = 0
        self._rest = b""

    def drain(self, last: bool = False) -> None:
        """Pass on new lines; `last`: an unfinished line, too."""
        piece = read_plain_file(self._spool, "output", 1 << 20, self._offset) or b""
        self._offset += len(piece)
        if self._offset > _OUTPUT_LIMIT:
            return
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > _LINE_LIMIT or (last and self._rest):
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._log(line[:_LINE_LIMIT].decode("utf-8", "replace").rstrip("\r"))


def write_for(path: Path, text: str, owner: int | None) -> None:
    """Write a file that only the container's user may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        if owner is not None:
            os.fchown(descriptor, owner, owner)
        file.write(text)
