"""`MemoryEngine`: a scripted engine for tests of everything above engines.

A `Script` per job defines its container's behaviour: run time, output and exit. Containers are values in a
dictionary. Only the spool files are outside this process; they are written as the real worker would
(docs/internals/index.md), so that whole jobs run through the real controller without any engine on the machine.
Nothing is persisted: a controller that "restarts" gets the same instance again.
"""

from __future__ import annotations

import collections
import datetime as dt
import hashlib
import heapq
import itertools
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from ci_runner.controller.engine import (
    SPOOL,
    ContainerSpec,
    DerivedImage,
    Footprint,
    Image,
    ImageBuild,
    Observed,
    Probe,
    ServiceSpec,
)
from ci_runner.controller.engines import sources
from ci_runner.errors import EngineUnavailable, ImageUnavailable, PermanentError, RunnerError
from ci_runner.model import seals


@dataclass(frozen=True)
class Output:
    """Bytes that a container writes to its spool, `at` seconds after its start."""

    data: bytes
    at: float = 0.0
    stream: Literal["stdout", "stderr"] = "stdout"


@dataclass(frozen=True)
class Script:
    """Behaviour of one container. The default: exit at once with code 0 and no output."""

    #: Seconds after the start; None: never by itself. 0 happens within `start`, so that tests need not wait.
    exit_after: float | None = 0.0
    exit_code: int = 0
    output: tuple[Output, ...] = ()
    #: Write a worker's frames if the spec has a spool; False: a worker that never started.
    writes_spool: bool = True
    #: False: the spool gets no exit frame, as with a lost container.
    final_frame: bool = True
    #: The engine reports a kill for lack of memory.
    oom_killed: bool = False
    #: Exit code after TERM; None: TERM is ignored.
    on_term: int | None = 143
    #: The engine's message for a command that cannot be started.
    start_error: str | None = None
    #: Called at the start in place of all of the above but `output`; its result is the exit code. For builds, which
    #: write files.
    run: Callable[[ContainerSpec], int] | None = None


@dataclass(frozen=True)
class _Container:
    observed: Observed
    spec: ContainerSpec
    script: Script
    install: str


class MemoryEngine:
    """An `Engine` without containers. Beyond the contract it has controls and counters for tests."""

    name = "memory"

    def __init__(
        self,
        script: Callable[[ContainerSpec], Script] | None = None,
        *,
        install: str = "memory",
        pythons: tuple[str, ...] = ("3.10", "3.11", "3.12", "3.13", "3.14"),
    ) -> None:
        """Set up an engine without containers.

        `script` chooses a script by spec; `scripts[job_id]` has precedence.
        """
        self.install = install
        self.pythons = pythons
        self.scripts: dict[str, Script] = {}
        #: False: every method raises `EngineUnavailable`.
        self.available = True
        #: Existing references (or ids); None: any.
        self.images: set[str] | None = None
        #: What `run_as_root` does: takes a command, returns its exit code and output.
        self.root_command: Callable[[Sequence[str]], tuple[int, bytes]] = lambda argv: (0, b"")
        #: Results of `commit` that exist, each with what it is about.
        self.derived: dict[str, str] = {}
        #: Ids of derived images that cannot be removed.
        self.used_images: set[str] = set()
        #: Result of `written_by_services`.
        self.written: dict[str, int] = {}
        #: Results of `footprint` for running containers, by name.
        self.footprints: dict[str, Footprint] = {}
        #: How often `create` made a container, by name; adoptions are not counted.
        self.creates: collections.Counter[str] = collections.Counter()
        #: Every call with its main argument, in order.
        self.calls: list[tuple[str, str]] = []
        self._script = script or (lambda spec: Script())
        self._lock = threading.RLock()
        self._containers: dict[str, _Container] = {}
        self._volumes: set[str] = set()
        self._removed_images: set[str] = set()
        self._failures: dict[str, collections.deque[RunnerError]] = collections.defaultdict(collections.deque)
        self._watchers: list[Callable[[], None]] = []
        self._timeline = _Timeline()
        self._numbers = itertools.count(1)

    # -- controls
    def fail_next(self, method: str, error: RunnerError) -> None:
        """Make the next call of `method` raise `error` (errors queue up)."""
        with self._lock:
            self._failures[method].append(error)

    def end(
        self, name: str, exit_code: int = 0, *, final_frame: bool = True, oom_killed: bool = False
    ) -> None:
        """End the running container of that name (or job id) now."""
        container = self._find(name)
        script = replace(container.script, final_frame=final_frame, oom_killed=oom_killed)
        self._exit(container.observed.id, exit_code, script)

    def write(self, name: str, data: bytes, stream: Literal["stdout", "stderr"] = "stdout") -> None:
        """Let the container of that name (or job id) write output now."""
        self._write_output(self._find(name).spec, Output(data, stream=stream))

    def lose(self, name: str) -> None:
        """Make the container of that name (or job id) vanish, leaving its volume behind."""
        with self._lock:
            del self._containers[self._find(name).observed.id]
        self._wake()

    # -- the contract
    def probe(self) -> Probe:
        """Report success."""
        self._enter("probe", "")
        return Probe(version="memory", isolates=True)

    def image(
        self, reference: str, *, pull: bool = True, progress: Callable[[str], None] | None = None
    ) -> Image:
        """Return an image; any exists unless `images` limits them."""
        self._enter("image", reference)
        is_gone = reference in self._removed_images
        if is_gone or (
            self.images is not None and reference not in self.images and reference not in self.derived
        ):
            raise ImageUnavailable(f"image {reference!r} does not exist")
        if reference.startswith("sha256:"):
            return Image(reference, reference, self.pythons)
        return Image("sha256:" + hashlib.sha256(reference.encode()).hexdigest(), reference, self.pythons)

    def image_file(self, image_id: str, path: str, limit: int) -> bytes | None:
        """Return None: there are no images."""
        return None

    def create(self, spec: ContainerSpec) -> str:
        """Adopt or make a container; sources of binds and lowers must exist."""
        sources.check(spec)
        return self._create(spec, self.scripts.get(spec.job_id) or self._script(spec))

    def _create(self, spec: ContainerSpec, script: Script) -> str:
        self._enter("create", spec.name)
        with self._lock:
            for container in self._containers.values():
                if container.spec.name == spec.name:
                    return self._adopt(container, spec)
            container_id = hashlib.sha256(f"{spec.name} {next(self._numbers)}".encode()).hexdigest()
            observed = Observed(container_id, spec.name, spec.role, spec.job_id, spec.attempt, "created")
            self._containers[container_id] = _Container(observed, spec, script, self.install)
            self.creates[spec.name] += 1
            if spec.overlay is not None:
                self._volumes.add(spec.name)
        self._wake()
        return container_id

    def create_service(self, spec: ServiceSpec) -> str:
        """Make a service's container; its script is chosen by a `ContainerSpec` of role "service"."""
        argv = spec.command or ("service",)
        as_job = ContainerSpec(
            spec.name,
            spec.image_id,
            argv,
            "service",
            spec.job_id,
            0,
            env=spec.env,
            network=spec.network,
            join=spec.join,
        )
        return self.create(as_job)

    def execute(self, container_id: str, argv: Sequence[str]) -> int | None:
        """Return 0 if the container runs."""
        self._enter("execute", " ".join(argv))
        seen = self.inspect(container_id)
        return 0 if seen is not None and seen.state == "running" else None

    def create_image_build(self, spec: ImageBuild) -> str:
        """Make a container of role "build" whose script never ends."""
        sources.check(spec)
        argv = ("image-build",)
        as_build = ContainerSpec(spec.name, spec.image_id, argv, "build", spec.job_id, spec.attempt)
        return self._create(as_build, Script(exit_after=None, writes_spool=False))

    def run_as_root(
        self,
        container_id: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        output: Callable[[bytes], None],
    ) -> int | None:
        """Call `root_command`."""
        self._enter("run_as_root", " ".join(argv))
        seen = self.inspect(container_id)
        if seen is None or seen.state != "running":
            return None
        code, written = self.root_command(argv)
        output(written)
        return code

    def commit(self, container_id: str, base: Image, about: str) -> DerivedImage:
        """Return an image that differs from all others."""
        self._enter("commit", about)
        digest = hashlib.sha256(f"{container_id} {next(self._numbers)}".encode()).hexdigest()
        with self._lock:
            self.derived[f"sha256:{digest}"] = about
        return DerivedImage(f"sha256:{digest}", 1 << 20)

    def derived_images(self) -> frozenset[str]:
        """Return the ids in `derived`."""
        self._enter("derived_images", "")
        return frozenset(self.derived)

    def remove_image(self, image_id: str) -> bool:
        """Forget an image, unless it is in `used_images`."""
        self._enter("remove_image", image_id)
        if image_id in self.used_images:
            return False
        self.derived.pop(image_id, None)
        self._removed_images.add(image_id)
        return True

    def written_by_services(self) -> Mapping[str, int]:
        """Return `written`."""
        self._enter("written_by_services", "")
        return dict(self.written)

    def footprint(self, container_id: str) -> Footprint:
        """Return the container's entry in `footprints`."""
        self._enter("footprint", container_id)
        seen = self.inspect(container_id)
        if seen is None or seen.state != "running":
            return Footprint()
        return self.footprints.get(seen.name, Footprint())

    def start(self, container_id: str) -> None:
        """Run the script."""
        self._enter("start", container_id)
        with self._lock:
            container = self._containers.get(container_id)
            if container is None:
                raise PermanentError("the container no longer exists")
            if container.observed.state != "created":
                return
            script = container.script
            if script.start_error is not None:
                error = script.start_error
                self._change(
                    container_id,
                    replace(container.observed, exit_code=127, error=error, finished_at=_now()),
                )
                raise PermanentError(f"the container could not be started: {script.start_error}")
            self._change(container_id, replace(container.observed, state="running", started_at=_now()))
        if script.writes_spool:
            self._frame(container.spec, "hello", worker="memory", python="3")
            self._frame(container.spec, "started", pid=1)
        for output in script.output:
            self._timeline.after(output.at, partial(self._write_if_running, container_id, output))
        self._wake()
        if script.run is not None:
            code = script.run(container.spec)
            self._exit(container_id, code, script)
        elif script.exit_after is not None:
            self._timeline.after(
                script.exit_after, lambda: self._exit(container_id, script.exit_code, script)
            )

    def signal(self, container_id: str, signal: Literal["TERM", "KILL"]) -> None:
        """Handle TERM by the script; KILL exits with 137 and no exit frame."""
        self._enter("signal", f"{signal} {container_id}")
        with self._lock:
            container = self._containers.get(container_id)
        if container is None:
            return
        script = container.script
        if signal == "KILL":
            self._exit(container_id, 137, replace(script, final_frame=False))
        elif script.on_term is not None:
            self._exit(container_id, script.on_term, script, stopped=True)

    def remove(self, container_id: str) -> None:
        """Forget the container and its volume."""
        self._enter("remove", container_id)
        with self._lock:
            container = self._containers.pop(container_id, None)
            if container is not None:
                self._volumes.discard(container.spec.name)
        self._wake()

    def list(self) -> list[Observed]:
        """Return this install's containers."""
        self._enter("list", "")
        with self._lock:
            return [item.observed for item in self._containers.values() if item.install == self.install]

    def inspect(self, container_id: str) -> Observed | None:
        """Return the same value as `list`."""
        self._enter("inspect", container_id)
        with self._lock:
            container = self._containers.get(container_id)
            return container.observed if container is not None else None

    def output(self, container_id: str, limit: int = 65536) -> str:
        """Return the script's start error, if any."""
        self._enter("output", container_id)
        with self._lock:
            container = self._containers.get(container_id)
            return (container.observed.error or "")[-limit:] if container is not None else ""

    def sweep(self, keep: frozenset[str]) -> int:
        """Forget the volumes of lost containers."""
        self._enter("sweep", "")
        with self._lock:
            stale = self._volumes - keep - {item.spec.name for item in self._containers.values()}
            self._volumes -= stale
            return len(stale)

    def watch(self, wake: Callable[[], None]) -> None:
        """Register `wake`; it is called from the thread that changes a container."""
        with self._lock:
            self._watchers.append(wake)

    def close(self) -> None:
        """End the timeline's thread; containers stay as they are."""
        with self._lock:
            self._watchers.clear()
        self._timeline.close()

    # -- internals
    def _enter(self, method: str, argument: str) -> None:
        with self._lock:
            self.calls.append((method, argument))
            if self._failures[method]:
                raise self._failures[method].popleft()
            if not self.available:
                raise EngineUnavailable("the memory engine was switched off")

    def _find(self, name: str) -> _Container:
        with self._lock:
            return next(
                c for c in reversed(self._containers.values()) if name in (c.spec.name, c.spec.job_id)
            )

    def _adopt(self, container: _Container, spec: ContainerSpec) -> str:
        there = container.observed
        if (container.install, there.role, there.job_id, there.attempt) != (
            self.install,
            spec.role,
            spec.job_id,
            spec.attempt,
        ):
            raise PermanentError(f"the container name {spec.name!r} is used by something else")
        return there.id

    def _change(self, container_id: str, observed: Observed) -> None:
        self._containers[container_id] = replace(self._containers[container_id], observed=observed)

    def _exit(self, container_id: str, code: int, script: Script, *, stopped: bool = False) -> None:
        with self._lock:
            container = self._containers.get(container_id)
            if container is None or container.observed.state != "running":
                return
            if script.writes_spool and script.final_frame:
                own, name = (code, None) if code < 128 else (None, f"SIG{code - 128}")
                self._frame(
                    container.spec, "exit", code=own, signal=name, oom=int(script.oom_killed), stopped=stopped
                )
            seen = replace(container.observed, state="exited", exit_code=code, finished_at=_now())
            self._change(container_id, replace(seen, oom_killed=script.oom_killed))
        self._wake()

    def _write_if_running(self, container_id: str, output: Output) -> None:
        with self._lock:
            container = self._containers.get(container_id)
            if container is not None and container.observed.state == "running":
                self._write_output(container.spec, output)

    def _write_output(self, spec: ContainerSpec, output: Output) -> None:
        spool = spool_of(spec)
        if spool is not None:
            with (spool / output.stream).open("ab") as file:
                file.write(output.data)
            self._frame(spec, "mark")

    def _frame(self, spec: ContainerSpec, kind: str, **fields: object) -> None:
        spool = spool_of(spec)
        if spool is None:
            return
        sizes: dict[str, int] = {name: _size(spool / name) for name in ("stdout", "stderr")}
        line = json.dumps({"t": kind, "at": time.time(), **sizes, **fields}).encode()
        key = spool.parent / "seal"
        if kind == "exit" and key.exists():
            line = seals.sealed(line, key.read_text())
        with (spool / "frames").open("ab") as file:
            file.write(line + b"\n")

    def _wake(self) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for wake in watchers:
            wake()


class _Timeline:
    """Calls functions later, in order of time, from one thread that starts at first use."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` after `seconds`; at once, in this thread, if they are 0."""
        if seconds <= 0:
            action()
            return
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), action))
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="memory-engine", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """End the thread; pending calls are dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._due or self._due[0][0] > time.monotonic()):
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                if self._closed:
                    return
                _, _, action = heapq.heappop(self._due)
            action()


def spool_of(spec: ContainerSpec) -> Path | None:
    """Return the host's folder of the container's spool, if it has one."""
    return next((bind.source for bind in spec.binds if bind.target == SPOOL), None)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
