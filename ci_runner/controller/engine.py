"""`Engine`: where containers run, as a written contract; the nouns that go in and come out.

Every engine passes `tests/contract/test_engine.py`. Engines know nothing of jobs, stores or HTTP: they get
frozen specs and answer with frozen observations. All methods may be called from several threads at once. SDK
exceptions never leave an engine: `EngineUnavailable` (temporary), `ImageUnavailable` or `PermanentError`
(permanent) do.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

#: Labels that every container, volume and network of ours carries; orphans are recognised by these alone.
LABEL_INSTALL: Final = "ci-runner.install"
LABEL_ROLE: Final = "ci-runner.role"
LABEL_JOB: Final = "ci-runner.job"
LABEL_ATTEMPT: Final = "ci-runner.attempt"

#: Fixed mount points inside a container (below one folder, so that nothing of the user's is hidden).
TOOLS: Final = "/ci/tools"
ENVIRONMENT: Final = "/ci/env"
PROJECT_LAYER: Final = "/ci/project"
SPOOL: Final = "/ci/spool"
STORE: Final = "/ci/store"
HOME: Final = "/ci/home"

#: `test` runs a job's command; `build` prepares an environment; `service` runs beside a test (a database).
Role = Literal["test", "build", "service"]
ContainerState = Literal["created", "running", "paused", "exited", "dead", "removing"]


@dataclass(frozen=True)
class Bind:
    """A folder or file of the host at a place in the container; a missing source is an error."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class Overlay:
    """A writable view of read-only trees: what the job writes lands in `upper`."""

    #: Topmost first.
    lowers: tuple[Path, ...]
    #: Folder owned by the job's uid, empty before the start; `work` is a sibling on the same file system.
    upper: Path
    work: Path
    target: str


@dataclass(frozen=True)
class Limits:
    """What one container may use."""

    cpus: float = 1.0
    #: Bytes; swap is not added.
    memory: int = 2 << 30
    pids: int = 512
    #: Bytes of one file.
    file_size: int = 1 << 30
    #: Bytes of each tmpfs (/tmp, /var/tmp, /dev/shm and the home folder); counted towards memory.
    tmp_size: int = 512 << 20
    open_files: int = 4096


@dataclass(frozen=True)
class ContainerSpec:
    """Everything an engine needs to create one container."""

    #: Unique and derived from labels: creating the same name again adopts the container that is there.
    name: str
    image_id: str
    argv: tuple[str, ...]
    role: Role
    job_id: str
    attempt: int
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    binds: tuple[Bind, ...] = ()
    overlay: Overlay | None = None
    limits: Limits = Limits()
    #: "egress": the default network with inter-container traffic off; "none": loopback only.
    network: Literal["egress", "none"] = "egress"
    #: Id of a running container whose network (loopback included) this one shares; `network` is that one's then.
    join: str | None = None
    #: Whom it runs as, where that is another than jobs do; engines that do not isolate have one user for all.
    uid: int | None = None
    #: Device and inode of mounts' sources as they were when they were made or checked; others are not compared.
    known: Mapping[Path, tuple[int, int]] = field(default_factory=dict)

    def sources(self) -> list[tuple[Path, str]]:
        """(source, mount point) of everything that is mounted."""
        result = [(bind.source, bind.target) for bind in self.binds]
        if self.overlay is not None:
            folders = (*self.overlay.lowers, self.overlay.upper, self.overlay.work)
            result += [(folder, self.overlay.target) for folder in folders]
        return result


@dataclass(frozen=True)
class ServiceSpec:
    """A container that runs an image as its makers meant it, beside a job's: its user, entry point and volumes."""

    name: str
    image_id: str
    job_id: str
    env: Mapping[str, str] = field(default_factory=dict)
    #: In place of the image's own command; empty means its own.
    command: tuple[str, ...] = ()
    limits: Limits = Limits()
    network: Literal["egress", "none"] = "egress"
    #: Names that mean this machine's loopback; of the first container only, the others share its files.
    hosts: tuple[str, ...] = ()
    #: As in `ContainerSpec`.
    join: str | None = None
    #: Let the image's own health check run, if it has one (`Observed.healthy`).
    own_check: bool = True


@dataclass(frozen=True)
class Observed:
    """One container as the engine sees it now."""

    id: str
    name: str
    role: Role
    job_id: str
    attempt: int
    state: ContainerState
    #: Set once exited; 128+n for a signal, as shells have it.
    exit_code: int | None = None
    #: Any process of the container was killed for memory (not necessarily the main one).
    oom_killed: bool = False
    #: The engine's own words about a container that could not start.
    error: str | None = None
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    #: What the image's own health check says; None where it has none.
    healthy: bool | None = None


@dataclass(frozen=True)
class Footprint:
    """Where on this machine to look for what a running container writes, beside its spec's own folders."""

    #: Process ids as this machine's /proc has them; () where they are not known.
    processes: tuple[int, ...] = ()
    #: Folders that the container can write; some may not be there, or be closed to the runner.
    folders: tuple[Path, ...] = ()
    #: They are a service's: what is in them is part of what `written_by_services` says.
    is_service: bool = False


@dataclass(frozen=True)
class Image:
    """A base image that is present."""

    #: Content digest (`sha256:…`): what containers are created from, immune to a moved tag.
    id: str
    reference: str
    #: Versions of CPython found in it, such as ("3.11", "3.12"); () where the engine does not know.
    pythons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """What an engine can do here; `problems` are sentences for an operator, worst first."""

    version: str
    #: False: jobs are not isolated from each other and from the host.
    isolates: bool
    #: False: no job can run here; the first problem says why.
    usable: bool = True
    problems: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """Where containers run. `id`s are the engine's own; everything may be called twice.

    Any method may raise `EngineUnavailable`: nothing was decided, the same call may be made again.
    """

    #: The name an operator gives it: "docker", "process", "memory", …
    name: str

    def probe(self) -> Probe:
        """Check that mounts, overlays and appended bytes are visible to both sides.

        Checked once per engine object; what can change while it lives is read anew.
        """

    def image(
        self, reference: str, *, pull: bool = True, progress: Callable[[str], None] | None = None
    ) -> Image:
        """Resolve, pulling when absent and allowed; `progress` gets one line per step.

        Raises `ImageUnavailable`, which names the image and what to do.
        """

    def create(self, spec: ContainerSpec) -> str:
        """Create (not start) and return the id.

        A container of that name with the same install, role, job and attempt is adopted, never a second one
        made. A name that something else has, a setting that the engine refuses, and a source that is missing,
        reached through a link or not the one that `known` has raise `PermanentError`.
        """

    def create_service(self, spec: ServiceSpec) -> str:
        """Create (not start) a service and return the id; adopts as `create` does (attempt 0).

        An engine that runs no services raises `PermanentError`.
        """

    def execute(self, container_id: str, argv: Sequence[str]) -> int | None:
        """Run a command in a running container and wait for its end, for some seconds: its exit code.

        None: the container does not run (any more), or the command goes on. For asking a service whether it is ready.
        """

    def written_by_services(self) -> Mapping[str, int]:
        """Job id → bytes on disk that its running services have written, into their roots and volumes; {} without any.

        May take a while: asked every few seconds, where there are services, by a thread that waits for nothing else.
        """

    def footprint(self, container_id: str) -> Footprint:
        """Say where a running container's traces are; empty when it does not run, or runs on another machine.

        Cheap: asked for each running container about once a second.
        """

    def start(self, container_id: str) -> None:
        """Start; harmless on a container that runs or has run.

        A container that is gone raises `PermanentError`. So does a command that cannot be started, where the
        engine notices (`Observed.error` and exit code 126 or 127 stay visible); where an init of its own starts
        the command, the container exits with 126 or 127 and `output` has the words.
        """

    def signal(self, container_id: str, signal: Literal["TERM", "KILL"]) -> None:
        """TERM reaches the main process; KILL ends the whole process tree. Harmless when it is over."""

    def remove(self, container_id: str) -> None:
        """Remove with its volumes, killing it when it runs. Harmless when it is gone.

        The overlay's `upper` stays: it is the caller's folder.
        """

    def list(self) -> list[Observed]:
        """All containers of this install (by label), whatever their state. Cheap: called on every tick.

        `exit_code` is set for whatever has exited.
        """

    def inspect(self, container_id: str) -> Observed | None:
        """One container with full detail (`oom_killed`, `error`), or None when it is gone."""

    def output(self, container_id: str, limit: int = 65536) -> str:
        """The last `limit` bytes that a container wrote to its own log.

        For the post-mortem of a worker that never started; empty when there is nothing or it is gone.
        """

    def sweep(self, keep: frozenset[str]) -> int:
        """Remove what a crash left: things of this install that are no container (volumes, folders).

        Names in `keep`, and whatever a container still uses, stay. Returns how many were removed.
        """

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` soon after a container of ours changes: a lossy hint, from a thread of the engine's."""

    def close(self) -> None:
        """End threads and connections; containers go on."""
