"""`ProcessEngine`: commands as plain processes of the runner's machine, for machines without a container engine.

It does not isolate, and reports that: a job can read and write what the runner's user can, reach the network, and use
any memory (`RLIMIT_AS` breaks programs that only reserve address space, so it is not set). Nor can it mount: mount
points in arguments, environment, working folder and `job.json` are replaced by the real paths, and a workspace is a
copy. As with real engines, a container survives the runner (a separate supervisor process watches it) and is found
again, a kill ends the whole tree, and nothing is started twice.

A container is a folder below `<folder>/<install>`: `spec.json`, `log`, `home/`, `tmp/`, and the files that
`supervisor` writes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import json
import logging
import os
import platform
import re
import shutil
import signal as signals
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, TypedDict, TypeVar

from ci_runner.controller.engine import (
    HOME,
    ContainerSpec,
    DerivedImage,
    Footprint,
    Image,
    ImageBuild,
    Limits,
    Observed,
    Probe,
    Role,
    ServiceSpec,
)
from ci_runner.controller.engines import sources
from ci_runner.controller.engines.docker.image_refs import parse_pythons
from ci_runner.controller.engines.process import paths
from ci_runner.controller.engines.process import supervisor as process_supervisor
from ci_runner.errors import EngineUnavailable, ImageUnavailable, PermanentError
from ci_runner.model.decode import trusted
from ci_runner.storage.safe_fs import Trash

log = logging.getLogger(__name__)

#: The one image: the runner's machine.
HOST_IMAGE: Final = "host"
_POLL: Final = 0.05
#: Exit code of a container without its supervisor; container engines use it after a crash of the node.
_LOST: Final = 255
#: Containers' folders are moved into this one for removal. A sweep removes a limited number of its entries.
_TRASH: Final = ".trash"
_SWEPT: Final = 100_000
#: Environment variable by which a container's processes are recognised.
_MARK: Final = "CI_RUNNER_CONTAINER"
_INHERITED: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")


class _Described(TypedDict):
    """The content of `spec.json`: the container's description; the supervisor reads argv, env, cwd and limits."""

    id: str
    name: str
    role: Role
    job: str
    attempt: int
    argv: list[str]
    env: dict[str, str]
    cwd: str
    limits: dict[str, int]


class _Started(TypedDict):
    """The content of `started`: the supervisor's process."""

    pid: int
    birth: str | None
    #: Seconds since 1970.
    at: float


class _StartError(TypedDict, total=False):
    error: str


class _Ended(_StartError):
    """The content of `exit.json`: how the command ended, or why it could not be started."""

    code: int
    #: Seconds since 1970.
    at: float


_T = TypeVar("_T")


class ProcessEngine:
    """A process engine; see the module. One object per process and folder."""

    name = "process"

    def __init__(self, install: str, *, folder: Path) -> None:
        """Set up the engine.

        `folder`: for the containers' folders; made when needed.
        """
        self.install = install
        self.folder = folder / install
        self._trash = Trash(self.folder / _TRASH)
        self._lock = threading.Lock()
        self._wakes: list[Callable[[], None]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # -- probing
    def probe(self) -> Probe:
        """Return a probe that is always usable and never isolating."""
        problems = ["jobs are not isolated: they run as processes of the runner's user on this machine"]
        if sys.platform != "linux":
            problems.append("processes that detach themselves from a job are not found when it is stopped")
        facts = {"platform": platform.platform(), "folder": str(self.folder)}
        return Probe(platform.python_version(), isolates=False, problems=tuple(problems), facts=facts)

    def image(
        self, reference: str, *, pull: bool = True, progress: Callable[[str], None] | None = None
    ) -> Image:
        """Return this machine for any official Python image; other images are unavailable."""
        if reference != HOST_IMAGE and not re.match(r"(docker\.io/)?(library/)?python(:|$)", reference):
            raise ImageUnavailable(
                f"image {reference!r} cannot be used: without a container engine jobs run on this machine itself; "
                f"remove the image, or use {HOST_IMAGE!r}"
            )
        return Image(HOST_IMAGE, reference, find_pythons())

    def image_file(self, image_id: str, path: str, limit: int) -> bytes | None:
        """Return None: there are no images."""
        return None

    # -- one container's life
    def create(self, spec: ContainerSpec) -> str:
        """See `Engine.create`. Copies the workspace's layers."""
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", spec.name):
            raise PermanentError(f"{spec.name!r} cannot name a container")
        sources.check(spec)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._lock:
            existing = self._read(self.folder / spec.name)
            if existing is not None:
                return _adopt(existing, spec)
            fresh = self.folder / f".new-{uuid.uuid4().hex}"
            final = self.folder / spec.name
            for folder in (fresh, fresh / "home", fresh / "tmp"):
                folder.mkdir(mode=0o700)
            places = paths.mapping(spec, final / "home")
            translate = paths.translator(places)
            for overlay in spec.overlays():
                paths.materialise(overlay)
            paths.map_job(spec, translate)
            described = _describe(spec, translate, final)
            process_supervisor.write_json(fresh / "spec.json", described)
            fresh.rename(final)
            return described["id"]

    def create_service(self, spec: ServiceSpec) -> str:
        """See `Engine.create_service`: services are not supported."""
        raise PermanentError(
            "services need a container engine, and this runner has none: start Docker, or remove the services"
        )

    def execute(self, container_id: str, argv: Sequence[str]) -> int | None:
        """See `Engine.execute`: only for services, which are not supported."""
        return None

    def create_image_build(self, spec: ImageBuild) -> str:
        """See `Engine.create_image_build`: there are no images."""
        raise PermanentError(
            "system packages need a container engine, and this runner has none: start Docker, or install them on this "
            "machine and remove `packages` from [tool.remote-ci]"
        )

    def run_as_root(
        self,
        container_id: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        output: Callable[[bytes], None],
    ) -> int | None:
        """See `Engine.run_as_root`: only for image builds, which are not supported."""
        return None

    def commit(self, container_id: str, base: Image, about: str) -> DerivedImage:
        """See `Engine.commit`: only for image builds, which are not supported."""
        raise PermanentError("this engine has no images")

    def derived_images(self) -> frozenset[str]:
        """See `Engine.derived_images`: there are no images."""
        return frozenset()

    def remove_image(self, image_id: str) -> bool:
        """See `Engine.remove_image`: there are no images."""
        return True

    def written_by_services(self) -> Mapping[str, int]:
        """See `Engine.written_by_services`: services are not supported."""
        return {}

    def footprint(self, container_id: str) -> Footprint:
        """See `Engine.footprint`: all processes below the supervisor, and the container's own folder."""
        found = self._find(container_id)
        supervisor = _supervisor(_read_json(found[0] / "started", _Started)) if found is not None else None
        if found is None or supervisor is None or (found[0] / "exit.json").exists():
            return Footprint()
        return Footprint(tuple(process_supervisor.descendants(supervisor)), (found[0],))

    def start(self, container_id: str) -> None:
        """See `Engine.start`. Returns once the command runs."""
        found = self._find(container_id)
        if found is None:
            raise PermanentError("the container no longer exists")
        folder, _ = found
        if (folder / "started").exists():
            return
        command = [sys.executable, "-I", "-S", process_supervisor.__file__, str(folder)]
        with (folder / "log").open("ab") as output:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", check=False
            )
        seen = self.inspect(container_id)
        if done.returncode:
            raise EngineUnavailable(f"the supervisor could not be started (exit code {done.returncode})")
        if seen is not None and seen.error is not None:
            raise PermanentError(f"the container could not be started: {seen.error}")

    def signal(self, container_id: str, signal: Literal["TERM", "KILL"]) -> None:
        """See `Engine.signal`."""
        found = self._find(container_id)
        supervisor = _supervisor(_read_json(found[0] / "started", _Started)) if found is not None else None
        if supervisor is None and found is not None and signal == "KILL":
            _kill_strays(found[1])
        if supervisor is not None:
            number = signals.SIGTERM if signal == "TERM" else signals.SIGUSR1
            try:
                os.kill(supervisor, number)
            except ProcessLookupError:
                return  # it has just ended

    def remove(self, container_id: str) -> None:
        """See `Engine.remove`."""
        found = self._find(container_id)
        if found is None:
            return
        folder, _ = found
        self.signal(container_id, "KILL")
        deadline = time.monotonic() + process_supervisor.KILL_PATIENCE + 5
        while _supervisor(_read_json(folder / "started", _Started)) is not None:
            if time.monotonic() > deadline:
                raise EngineUnavailable("the container's processes do not end")
            time.sleep(0.01)
        self._trash.remove(folder)

    # -- observing
    def list(self) -> list[Observed]:
        """See `Engine.list`."""
        if not self.folder.is_dir():
            return []
        read = ((folder, self._read(folder)) for folder in sorted(self.folder.iterdir()))
        return [_observe(folder, described) for folder, described in read if described is not None]

    def inspect(self, container_id: str) -> Observed | None:
        """See `Engine.inspect`."""
        found = self._find(container_id)
        return _observe(*found) if found is not None else None

    def output(self, container_id: str, limit: int = 65536) -> str:
        """See `Engine.output`."""
        found = self._find(container_id)
        if found is None or not (found[0] / "log").exists():
            return ""
        with (found[0] / "log").open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            return file.read(limit).decode(errors="replace")

    def watch(self, wake: Callable[[], None]) -> None:
        """See `Engine.watch`: polls the folders 20 times a second."""
        with self._lock:
            self._wakes.append(wake)
            if self._thread is None:
                self._thread = threading.Thread(target=self._poll, name="process-engine", daemon=True)
                self._thread.start()

    # -- tidying up
    def sweep(self, keep: frozenset[str]) -> int:
        """See `Engine.sweep`: removes folders that are half made or half removed."""
        with self._lock:
            if not self.folder.is_dir():
                return 0
            stale = [path for path in self.folder.iterdir() if path.name.startswith((".new-", ".old-"))]
            for path in stale:
                self._trash.remove(path)
            self._trash.empty(_SWEPT)
            return len(stale)

    def close(self) -> None:
        """See `Engine.close`."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    # -- internals
    def _find(self, container_id: str) -> tuple[Path, _Described] | None:
        folder = self.folder / container_id.rpartition(".")[0]
        described = self._read(folder) if folder != self.folder else None
        return (folder, described) if described is not None and described["id"] == container_id else None

    def _read(self, folder: Path) -> _Described | None:
        if folder.name.startswith("."):
            return None
        return _read_json(folder / "spec.json", _Described)

    def _poll(self) -> None:
        before = self._signature()
        while not self._stop.wait(_POLL):
            try:
                now = self._signature()
            except OSError as error:  # only a hint is lost; ticks see the change anyway
                log.debug("the processes cannot be listed now: %s", error)
                continue
            if now != before:
                before = now
                with self._lock:
                    wakes = list(self._wakes)
                for wake in wakes:
                    wake()

    def _signature(self) -> frozenset[tuple[str, str, str]]:
        return frozenset((seen.id, seen.state, seen.error or "") for seen in self.list())


def _describe(spec: ContainerSpec, translate: Callable[[str], str], final: Path) -> _Described:
    """Return the container's stored description; the supervisor reads argv, env, cwd and limits."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    inherited["PATH"] = _search_path(inherited.get("PATH", os.defpath))
    container_id = f"{spec.name}.{uuid.uuid4().hex}"
    env = {"HOME": HOME, "USER": "runner", "LOGNAME": "runner", "TMPDIR": str(final / "tmp"), **spec.env}
    env[_MARK] = container_id
    return {
        "id": container_id,
        "name": spec.name,
        "role": spec.role,
        "job": spec.job_id,
        "attempt": spec.attempt,
        "argv": [translate(argument) for argument in spec.argv],
        "env": inherited | {name: translate(value) for name, value in env.items()},
        "cwd": translate(spec.cwd),
        "limits": _limits(spec.limits),
    }


def _limits(limits: Limits) -> dict[str, int]:
    return {
        "fsize": limits.file_size,
        "nofile": limits.open_files,
        "soft_nofile": limits.soft_open_files,
        "core": 0,
    }


def _adopt(described: _Described, spec: ContainerSpec) -> str:
    if (described["role"], described["job"], described["attempt"]) != (spec.role, spec.job_id, spec.attempt):
        raise PermanentError(f"the container name {spec.name} is used by something else")
    return described["id"]


def _kill_strays(described: _Described) -> None:
    """KILL the processes left by a supervisor that was itself killed."""
    for pid in _marked(described):
        with contextlib.suppress(OSError):
            os.kill(pid, signals.SIGKILL)


def _marked(described: _Described) -> Iterator[int]:
    """Yield a container's processes, wherever they are in the tree: an environment variable marks them.

    The worker hides its environment from processes with its uid; it is recognised by its command, which names a
    folder of this job's.
    """
    mark = f"{_MARK}={described['id']}".encode()
    main = b"".join(argument.encode() + b"\0" for argument in described["argv"])
    is_named = bool(described["job"]) and described["job"].encode() in main
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            if (is_named and command == main) or mark in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)


def _supervisor(started: _Started | None) -> int | None:
    """Return the process id in `started` if that supervisor is alive."""
    if started is None or process_supervisor.birth(started["pid"]) != started["birth"]:
        return None
    return started["pid"]


def _observe(folder: Path, described: _Described) -> Observed:
    # Read once: a container that is just starting must not look like one without its supervisor.
    started = _read_json(folder / "started", _Started)
    alive = _supervisor(started)  # before the exit is read: a dead supervisor has written it
    ended = _read_json(folder / "exit.json", _Ended)
    seen = Observed(
        described["id"],
        described["name"],
        described["role"],
        described["job"],
        described["attempt"],
        "created",
    )
    if started is not None:
        seen = replace(seen, state="running", started_at=_moment(started["at"]))
        if ended is None and alive is None:
            ended = _read_json(folder / "exit.json", _Ended) or {"code": _LOST, "at": started["at"]}
    if ended is not None:
        seen = replace(
            seen,
            state="created" if ended.get("error") else "exited",
            exit_code=ended["code"],
            error=ended.get("error"),
            finished_at=_moment(ended["at"]),
        )
    return seen


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.timezone.utc)


def _read_json(path: Path, kind: type[_T]) -> _T | None:
    """Return a file's content, checked; None if it does not exist."""
    try:
        return trusted(json.loads(path.read_text()), kind)
    except (FileNotFoundError, NotADirectoryError):
        return None


def find_pythons() -> tuple[str, ...]:
    """Return the CPython versions that start on this machine: on PATH, from uv, and the runner's own."""
    return parse_pythons("\n".join(_interpreters()))


@functools.cache
def _interpreters() -> dict[str, Path]:
    """Return version → interpreter. A command on PATH may fail to start, such as a shim of pyenv's."""
    found: dict[str, Path] = {}
    for minor in range(8, 21):
        command = shutil.which(f"python3.{minor}")
        if command is not None:
            output = _output_of(
                [command, "-I", "-S", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
            )
            found.update((version, Path(command)) for version in parse_pythons(output))
    uv = shutil.which("uv")
    if uv is not None:
        listed = _output_of(
            [uv, "python", "list", "--only-installed", "--offline", "--no-config", "--no-cache"]
        )
        for version, command in re.findall(
            r"^cpython-(3\.\d+)\.\S*\s+(/.*?)(?: -> .*)?$", listed, re.MULTILINE
        ):
            found.setdefault(version, Path(command))
    own = platform.python_version()[: platform.python_version().rindex(".")]
    found.setdefault(own, Path(sys.base_prefix) / "bin" / f"python{own}")
    return found


def _search_path(inherited: str) -> str:
    """Return PATH with the folders of all interpreters.

    The runner's own may be missing from it: a virtual environment can be used without being activated.
    """
    folders = inherited.split(os.pathsep) if inherited else []
    more = dict.fromkeys(str(interpreter.parent) for interpreter in _interpreters().values())
    return os.pathsep.join([*folders, *(folder for folder in more if folder not in folders)])


def _output_of(command: list[str]) -> str:
    """Return a program's output; "" if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
