"""Runs one build container to its end: its output to the job's log as it comes, its result back as a value.

What is built and what becomes of it is left to `environments`; the program inside is `pytest_remote_ci.job.builder`.
Everything that comes out of such a container may be made by foreign code and is read as such.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ci_runner import failpoints
from ci_runner.controller.engine import SPOOL, STORE, TOOLS, Bind, ContainerSpec, Engine, Limits, Overlay
from ci_runner.errors import EnvironmentFailed, PermanentError, RunnerError
from ci_runner.states import first_line

_CREATED = failpoints.register("controller.build.created", "a build container is created, not started")
_STARTED = failpoints.register("controller.build.started", "a build container is started")
_ENDED = failpoints.register("controller.build.ended", "a build container has ended and is not removed")

#: Seconds between looks at the output, and between questions to the engine.
_POLL: Final = 0.02
_ASK: Final = 0.5
#: Bytes of output that reach the log, and of a result.
_OUTPUT_LIMIT: Final = 4 << 20
_RESULT_LIMIT: Final = 32 << 20
_LINE_LIMIT: Final = 4096

#: Finds the base image's interpreter of the version in $1 and becomes it.
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


class PreparationStopped(RunnerError):
    """Whoever asked for the preparation wants it no more (cancelled, timed out)."""


@dataclass(frozen=True)
class Build:
    """One run of the builder."""

    job_id: str
    attempt: int
    image_id: str
    #: "3.12".
    python: str
    steps: tuple[Mapping[str, Any], ...]
    #: Folder that is mounted writable at `/ci/store`; foreign code runs in there only where `may_build`.
    store: Path
    may_build: bool
    cwd: str
    env: Mapping[str, str] = field(default_factory=dict)
    binds: tuple[Bind, ...] = ()
    #: Read-only trees that appear, writable, at `cwd`.
    lowers: tuple[Path, ...] = ()
    #: Where what is written over `lowers` lands; None: in a folder of the build's own.
    upper: Path | None = None
    #: Processors at most; None: what builds have.
    cpus: float | None = None


@dataclass(frozen=True)
class Built:
    """What a build left; its folder is removed with the `with` block that gave it."""

    result: Mapping[str, Any]
    #: What was written over `Build.lowers`.
    upper: Path


class Builds:
    """Build containers of one controller. Methods may be called from any thread."""

    def __init__(
        self,
        engine: Engine,
        data_dir: Path,
        *,
        prefix: str,
        install_id: str,
        owner: int | None,
        limits: Limits,
        slots: int,
    ) -> None:
        """`slots`: how many run at once; `owner`: the uid of jobs, None when it is ours."""
        self._engine = engine
        self._work = data_dir / "work"
        self._prefix = f"{prefix}build-{install_id[:8]}-"
        self._owner = owner
        self._limits = limits
        self._slots = threading.BoundedSemaphore(max(1, slots))
        self._lock = threading.Lock()
        self._names: set[str] = set()

    def in_use(self) -> frozenset[str]:
        """Names of the build containers of calls in flight."""
        with self._lock:
            return frozenset(self._names)

    @contextlib.contextmanager
    def run(
        self, build: Build, tools: Path, *, log: Callable[[str], None], stopping: Callable[[], bool]
    ) -> Iterator[Built]:
        """Run it; the result's ``ok`` says whether it succeeded.

        Raises `EnvironmentFailed` when the container gave no result, `PreparationStopped`, `EngineUnavailable`.
        """
        identity = uuid.uuid4().hex[:16]
        name = self._prefix + identity
        folder = self._work / f"{build.job_id}-b{identity}"  # goes with the job, should we die
        with self._slot(stopping), self._named(name):
            try:
                self._make_folders(folder, build)
                yield Built(
                    self._follow(self._spec(build, name, folder, tools), folder, log, stopping),
                    folder / "upper",
                )
            finally:
                remove_folder(folder)

    @contextlib.contextmanager
    def _slot(self, stopping: Callable[[], bool]) -> Iterator[None]:
        while not self._slots.acquire(timeout=0.2):
            if stopping():
                raise PreparationStopped("stopped before the environment was built")
        try:
            yield
        finally:
            self._slots.release()

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        with self._lock:
            self._names.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._names.discard(name)

    def _make_folders(self, folder: Path, build: Build) -> None:
        for part in ("upper", "work", "spool"):
            (folder / part).mkdir(mode=0o755, parents=True)
            if self._owner is not None:
                os.chown(folder / part, self._owner, self._owner)
        job = {
            "protocol": 1,
            "uv": f"{TOOLS}/uv",
            "may_build": build.may_build,
            "cwd": build.cwd,
            "env": dict(build.env),
            "steps": [dict(step) for step in build.steps],
        }
        write_for(folder / "spool" / "job.json", json.dumps(job), self._owner)

    def _spec(self, build: Build, name: str, folder: Path, tools: Path) -> ContainerSpec:
        overlay = (
            Overlay(build.lowers, build.upper or folder / "upper", folder / "work", build.cwd)
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
                Bind(folder / "spool", SPOOL, read_only=False),
                Bind(build.store, STORE, read_only=False),
                *build.binds,
            ),
            overlay=overlay,
            limits=self._limits if build.cpus is None else replace(self._limits, cpus=build.cpus),
            network="egress",
        )

    def _follow(
        self, spec: ContainerSpec, folder: Path, log: Callable[[str], None], stopping: Callable[[], bool]
    ) -> Mapping[str, Any]:
        container = self._engine.create(spec)
        try:
            failpoints.hit(_CREATED)
            self._engine.start(container)
            failpoints.hit(_STARTED)
            output = _Output(folder / "spool" / "output", log)
            result = self._wait(container, folder / "spool" / "result.json", output, stopping)
            output.drain(last=True)
            return result
        except PermanentError as error:
            raise EnvironmentFailed(f"could not build the environment: {first_line(str(error))}") from error
        finally:
            failpoints.hit(_ENDED)
            self._engine.remove(container)

    def _wait(
        self, container: str, path: Path, output: _Output, stopping: Callable[[], bool]
    ) -> Mapping[str, Any]:
        ask_at = time.monotonic() + _ASK
        while not path.exists():
            output.drain()
            if time.monotonic() >= ask_at:
                ask_at = time.monotonic() + _ASK
                if stopping():
                    self._engine.signal(container, "KILL")
                    raise PreparationStopped("stopped while the environment was built")
                self._check(container, path)
            time.sleep(_POLL)
        content = read_untrusted(path, _RESULT_LIMIT)
        try:
            result = json.loads(content or b"")
        except (ValueError, RecursionError) as error:
            raise EnvironmentFailed("the build left no readable result") from error
        if not isinstance(result, dict):
            raise EnvironmentFailed("the build left no readable result")
        return result

    def _check(self, container: str, path: Path) -> None:
        """Raise when the container is over without a result."""
        seen = self._engine.inspect(container)
        if seen is not None and seen.state not in ("exited", "dead"):
            return
        if path.exists():
            return
        if seen is None:
            raise EnvironmentFailed("the build container is gone")
        if seen.oom_killed:
            limit = self._limits.memory >> 20
            raise EnvironmentFailed(f"the environment build ran out of memory ({limit} MiB)")
        words = seen.error or first_line(self._engine.output(container) or f"exit code {seen.exit_code}")
        raise EnvironmentFailed(f"the environment build ended early: {words}")


class _Output:
    """The builder's output file, followed line by line."""

    def __init__(self, path: Path, log: Callable[[str], None]) -> None:
        self._path = path
        self._log = log
        self._offset = 0
        self._rest = b""

    def drain(self, last: bool = False) -> None:
        """Pass on what is new; `last`: also a line that has no end."""
        piece = read_untrusted(self._path, 1 << 20, self._offset) or b""
        self._offset += len(piece)
        if self._offset > _OUTPUT_LIMIT:
            return
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > _LINE_LIMIT or (last and self._rest):
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._log(line[:_LINE_LIMIT].decode("utf-8", "replace").rstrip("\r"))


def read_untrusted(path: Path, limit: int, offset: int = 0) -> bytes | None:
    """Up to `limit` bytes of a file that foreign code may have made; None unless it is a plain file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.pread(descriptor, limit, offset) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    finally:
        os.close(descriptor)


def write_for(path: Path, text: str, owner: int | None) -> None:
    """Write a file that a container may read, and nobody else."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        if owner is not None:
            os.fchown(descriptor, owner, owner)
        file.write(text)


def remove_folder(folder: Path) -> None:
    """Remove a folder of ours, whatever a container left in it; never follows links."""

    def open_up(_function: Any, path: str, _error: Any) -> None:
        for closed in (os.path.dirname(path), path):  # noqa: PTH120
            with contextlib.suppress(OSError):
                if stat.S_ISDIR(os.lstat(closed).st_mode):
                    os.chmod(closed, 0o700)  # noqa: PTH101
        with contextlib.suppress(OSError):
            # The kernel's own folder below an overlay's `work` is closed to everybody, but empty.
            os.rmdir(path)  # noqa: PTH106

    if folder.is_symlink():
        folder.unlink()
        return
    if folder.exists():
        shutil.rmtree(folder, onerror=open_up)
        shutil.rmtree(folder, ignore_errors=True)
