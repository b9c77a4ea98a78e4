"""`Engine`: the contract for running containers, and its input and output types.

Every engine passes `tests/contract/test_engine.py`. Engines know nothing of jobs, stores or HTTP: they take frozen
specs and return frozen observations. All methods may be called from several threads at once. SDK exceptions never
leave an engine; it raises `EngineUnavailable` (temporary), `ImageUnavailable` or `PermanentError` (permanent).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol, runtime_checkable

#: Labels of all containers, volumes and networks of the runner; orphans are recognised by these alone.
LABEL_INSTALL: Final = "ci-runner.install"
LABEL_ROLE: Final = "ci-runner.role"
LABEL_JOB: Final = "ci-runner.job"
LABEL_ATTEMPT: Final = "ci-runner.attempt"

#: Fixed mount points inside a container (below one folder, so that none of the user's files are hidden).
TOOLS: Final = "/ci/tools"
ENVIRONMENT: Final = "/ci/env"
PROJECT_LAYER: Final = "/ci/project"
SPOOL: Final = "/ci/spool"
STORE: Final = "/ci/store"
HOME: Final = "/ci/home"
#: Kept folders of the home; the home has links to them.
KEPT: Final = "/ci/kept"

#: `test` runs a job's command; `build` prepares an environment; `service` runs alongside a test (a database).
Role = Literal["test", "build", "service"]
ContainerState = Literal["created", "running", "paused", "exited", "dead", "removing"]


@dataclass(frozen=True)
class Bind:
    """A folder or file of the host, mounted in the container; a missing source is an error."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class Overlay:
    """A writable view of read-only trees: the job writes to `upper`."""

    #: Topmost first.
    lowers: tuple[Path, ...]
    #: Folder owned by the job's uid, empty before the start; `work` is a sibling on the same file system.
    upper: Path
    work: Path
    target: str


@dataclass(frozen=True)
class Limits:
    """Resource limits of one container."""

    cpus: float = 1.0
    #: Bytes; swap is not added.
    memory: int = 2 << 30
    pids: int = 512
    #: Maximum bytes of one file.
    file_size: int = 1 << 30
    #: Bytes of /tmp and of /var/tmp, of /dev/shm, of the home folder; counted towards memory.
    tmp_size: int = 512 << 20
    shm_size: int = 512 << 20
    home_size: int = 512 << 20
    #: Open files of one process, and how many of them it may have without asking (its soft limit).
    open_files: int = 4096
    soft_open_files: int = 1024


@dataclass(frozen=True)
class ContainerSpec:
    """Everything an engine needs to create one container."""

    #: Unique and derived from labels: creating the same name again adopts the existing container.
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
    #: The kept folders of the home, likewise.
    kept: Overlay | None = None
    limits: Limits = Limits()
    #: "egress": the default network with inter-container traffic off; "none": loopback only.
    network: Literal["egress", "none"] = "egress"
    #: Id of a running container that shares its network, loopback included; `network` is then ignored.
    join: str | None = None
    #: User id, if not that of jobs; engines that do not isolate have one user for all.
    uid: int | None = None
    #: Started before there is a job, for one whose container's name begins like this (see `WarmEngine`).
    ahead_of: str | None = None
    #: Device and inode of mounted sources when they were made or checked; other sources are not compared.
    known: Mapping[Path, tuple[int, int]] = field(default_factory=dict)

    def sources(self) -> list[tuple[Path, str]]:
        """Return (source, mount point) of everything that is mounted."""
        result = [(bind.source, bind.target) for bind in self.binds]
        for overlay in self.overlays():
            folders = (*overlay.lowers, overlay.upper, overlay.work)
            result += [(folder, overlay.target) for folder in folders]
        return result

    def overlays(self) -> list[Overlay]:
        """Return the writable views."""
        return [overlay for overlay in (self.overlay, self.kept) if overlay is not None]


@dataclass(frozen=True)
class ServiceSpec:
    """A container alongside a job's that runs an image as its makers meant it: its user, entry point and volumes."""

    name: str
    image_id: str
    job_id: str
    env: Mapping[str, str] = field(default_factory=dict)
    #: Replaces the image's own command, unless empty.
    command: tuple[str, ...] = ()
    limits: Limits = Limits()
    network: Literal["egress", "none"] = "egress"
    #: Names that resolve to loopback; only for the first container, the others share its hosts file.
    hosts: tuple[str, ...] = ()
    #: As in `ContainerSpec`.
    join: str | None = None
    #: Let the image's own health check run, if it has one (`Observed.healthy`).
    own_check: bool = True


@dataclass(frozen=True)
class ImageBuild:
    """A container in which root changes an image, as a package manager does, and which sees nothing of any job.

    It runs until it is removed, does nothing by itself, has the egress network, and is observed with the role `build`.
    """

    name: str
    image_id: str
    job_id: str
    attempt: int
    #: Read-only files, below /tmp: what lies there does not become part of the image.
    binds: tuple[Bind, ...] = ()
    limits: Limits = Limits()

    def sources(self) -> list[tuple[Path, str]]:
        """Return (source, mount point) of everything that is mounted."""
        return [(bind.source, bind.target) for bind in self.binds]


@dataclass(frozen=True)
class DerivedImage:
    """An image that the runner made of another one."""

    #: Content digest (`sha256:…`).
    id: str
    #: Bytes that it takes in addition to the image that it was made of.
    size: int


@dataclass(frozen=True)
class Observed:
    """One container as the engine sees it now."""

    id: str
    name: str
    role: Role
    job_id: str
    attempt: int
    state: ContainerState
    #: Set once exited; 128+n for a signal, as in shells.
    exit_code: int | None = None
    #: Some process of the container, not necessarily the main one, was killed for lack of memory.
    oom_killed: bool = False
    #: The engine's message about a container that could not start.
    error: str | None = None
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    #: Result of the image's own health check; None if it has none.
    healthy: bool | None = None


@dataclass(frozen=True)
class Footprint:
    """Where on this machine a running container writes, beyond its spec's own folders."""

    #: Process ids in this machine's /proc; () if unknown.
    processes: tuple[int, ...] = ()
    #: Folders that the container can write; some may not exist, or may be unreadable for the runner.
    folders: tuple[Path, ...] = ()
    #: The folders are a service's: `written_by_services` includes their contents.
    is_service: bool = False


@dataclass(frozen=True)
class Image:
    """A base image that is present."""

    #: Content digest (`sha256:…`): containers are created from it, so a moved tag has no effect.
    id: str
    reference: str
    #: CPython versions found in it, such as ("3.11", "3.12"); () if unknown.
    pythons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """An engine's abilities; `problems` are sentences for an operator, worst first."""

    version: str
    #: False: jobs are not isolated from each other and from the host.
    isolates: bool
    #: False: no job can run; the first problem is the reason.
    usable: bool = True
    problems: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """Runs containers. Ids are the engine's own; every method may be called twice.

    Any method may raise `EngineUnavailable`: nothing was decided, and the call may be repeated.
    """

    #: The engine's name in the settings: "docker", "process", "memory", …
    name: str

    def probe(self) -> Probe:
        """Check that mounts, overlays and appended bytes are visible to both sides.

        Checked once per engine object, except for what can change during its life.
        """

    def image(
        self, reference: str, *, pull: bool = True, progress: Callable[[str], None] | None = None
    ) -> Image:
        """Resolve an image, pulling it if absent and allowed; `progress` gets one line per step.

        Raises `ImageUnavailable`, which names the image and a remedy.
        """

    def image_file(self, image_id: str, path: str, limit: int) -> bytes | None:
        """Return a regular file of an image, at most `limit` bytes large; None if there is none of that name.

        No program of the image runs, and no link at that path is followed. An engine without images returns None.
        """

    def create(self, spec: ContainerSpec) -> str:
        """Create (not start) a container and return its id.

        An existing container of that name with the same install, role, job and attempt is adopted; a second one is
        never made. Raises `PermanentError` if anything else has the name, if the engine refuses a setting, or if a
        source is missing, reached through a link, or differs from its entry in `known`.
        """

    def create_service(self, spec: ServiceSpec) -> str:
        """Create (not start) a service and return its id; adopt one as `create` does (attempt 0).

        An engine that cannot run services raises `PermanentError`.
        """

    def execute(self, container_id: str, argv: Sequence[str]) -> int | None:
        """Run a command in a running container, wait some seconds for its end, and return its exit code.

        Return None if the container does not run (any more), or the command goes on. Used to ask a service whether it
        is ready.
        """

    def create_image_build(self, spec: ImageBuild) -> str:
        """Create (not start) the container of an image build and return its id.

        An engine that cannot build images raises `PermanentError`.
        """

    def run_as_root(
        self,
        container_id: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        output: Callable[[bytes], None],
    ) -> int | None:
        """Run a command as root in a started image build, and return its exit code once it has ended.

        `output` gets what it writes, in pieces; `env` is for this command alone and never part of the image. A command
        that does not exist has exit code 126 or 127. Return None if the container does not run (any more). May take as
        long as the command does; killing or removing the container ends it.
        """

    def commit(self, container_id: str, base: Image, about: str) -> DerivedImage:
        """Make an image of an image build's root, configured as its base; `about` is one line for the operator."""

    def derived_images(self) -> frozenset[str]:
        """Return the ids of all images of this install that `commit` made and that still exist."""

    def remove_image(self, image_id: str) -> bool:
        """Remove an image that `commit` made; return False if something still uses it. Harmless if it is gone."""

    def written_by_services(self) -> Mapping[str, int]:
        """Return job id → bytes on disk that its running services have written; {} without any.

        Includes the services' roots and volumes. May take a while: while there are services, a thread that does
        nothing else calls it every few seconds.
        """

    def footprint(self, container_id: str) -> Footprint:
        """Return where a running container writes; empty if it does not run, or runs on another machine.

        Cheap: called for each running container about once a second.
        """

    def start(self, container_id: str) -> None:
        """Start a container; harmless if it runs or has run.

        A container that is gone raises `PermanentError`. So does a command that cannot be started, if the engine
        notices (`Observed.error` and exit code 126 or 127 stay visible); if the container's init starts the command,
        the container exits with 126 or 127, and `output` has the message.
        """

    def signal(self, container_id: str, signal: Literal["TERM", "KILL"]) -> None:
        """Send TERM to the main process, or KILL the whole process tree. Harmless if it has ended."""

    def remove(self, container_id: str) -> None:
        """Remove a container with its volumes; kill it if it runs. Harmless if it is gone.

        The overlay's `upper` stays: it is the caller's folder.
        """

    def list(self) -> list[Observed]:
        """Return all containers of this install (by label), in any state. Cheap: called on every tick.

        `exit_code` is set for all that have exited.
        """

    def inspect(self, container_id: str) -> Observed | None:
        """Return one container in full detail (`oom_killed`, `error`), or None if it is gone."""

    def output(self, container_id: str, limit: int = 65536) -> str:
        """Return the last `limit` bytes of a container's own log.

        For the post-mortem of a worker that never started; empty if there is no output or the container is gone.
        """

    def sweep(self, keep: frozenset[str]) -> int:
        """Remove leftovers of a crash: things of this install other than containers (volumes, folders).

        Names in `keep`, and anything that a container still uses, stay. Return how many were removed.
        """

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` soon after one of this install's containers changes: a lossy hint, from an engine's thread."""

    def close(self) -> None:
        """End threads and connections; containers keep running."""


@runtime_checkable
class RemovableEngine(Protocol):
    """What an engine can do in addition that keeps something of a runner outside of its data directory."""

    def belongings(self) -> dict[str, list[str]]:
        """Return what it has of this install: a kind ("container", "network", …) → names."""

    def uninstall(self) -> None:
        """Remove all of that."""


@runtime_checkable
class WarmEngine(Protocol):
    """What an engine can do in addition that starts containers ahead of their jobs.

    `create` of a spec with `ahead_of` makes such a container. `list` omits it until it is taken.
    """

    def freeze(self, container_id: str) -> None:
        """Stop all processes of a running container; they do nothing until `thaw`."""

    def assign(self, container_id: str, name: str) -> None:
        """Make a frozen container that of the job and attempt whose container has this name.

        Raises `PermanentError` if it is gone, or another container has the name.
        """

    def thaw(self, container_id: str) -> None:
        """Let its processes go on. Raises `PermanentError` if it is gone, or not frozen."""

    def memory(self, container_id: str) -> int:
        """Return the bytes of memory that a container takes and that the kernel cannot free."""

    def waiting(self) -> list[str]:
        """Return the ids of all containers of this install that were started ahead and are not taken."""
