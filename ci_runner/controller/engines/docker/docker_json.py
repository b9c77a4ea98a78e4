"""Docker's JSON, as far as the runner writes or reads it, and the calls of the SDK's client, which has no types.

Everything that an engine may leave out is optional, and everything that it may send as null can be None.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict, overload

if TYPE_CHECKING:
    from typing_extensions import NotRequired, Required


class Ulimit(TypedDict):
    """One limit of a process."""

    Name: str
    Soft: int
    Hard: int


class DriverConfig(TypedDict, total=False):
    """The driver of a volume."""

    Name: str
    Options: dict[str, str] | None


class VolumeOptions(TypedDict, total=False):
    """How a volume is made."""

    NoCopy: bool
    Labels: dict[str, str]
    DriverConfig: DriverConfig | None


class BindOptions(TypedDict):
    """How a folder of the host is mounted."""

    Propagation: str


class Mount(TypedDict, total=False):
    """A mount, as it is requested."""

    Type: Required[str]
    Target: Required[str]
    Source: str
    ReadOnly: bool
    BindOptions: BindOptions
    VolumeOptions: VolumeOptions | None


class LogConfig(TypedDict):
    """Where a container's output goes."""

    Type: str
    Config: dict[str, str]


class RestartPolicy(TypedDict):
    """Whether the engine starts a container again."""

    Name: str


class HostConfig(TypedDict, total=False):
    """What a container may do, and what it sees of the host."""

    AutoRemove: bool
    CapAdd: list[str]
    CapDrop: list[str]
    #: Additional lines of /etc/hosts.
    ExtraHosts: list[str]
    Init: bool
    IpcMode: str
    LogConfig: LogConfig
    Memory: int
    MemorySwap: int
    Mounts: list[Mount] | None
    NanoCpus: int
    NetworkMode: str
    OomScoreAdj: int
    PidsLimit: int
    Privileged: bool
    ReadonlyRootfs: bool
    RestartPolicy: RestartPolicy
    SecurityOpt: list[str]
    ShmSize: int
    #: Kernel parameters of the container's network.
    Sysctls: dict[str, str]
    Tmpfs: dict[str, str]
    Ulimits: list[Ulimit]


class Healthcheck(TypedDict, total=False):
    """How the engine learns whether a container is healthy."""

    Test: Required[list[str]]
    #: Nanoseconds.
    Interval: int


class ContainerConfig(TypedDict, total=False):
    """The body of `POST /containers/create`."""

    Image: Required[str]
    Labels: Required[dict[str, str]]
    HostConfig: Required[HostConfig]
    AttachStderr: bool
    AttachStdout: bool
    Cmd: list[str]
    Entrypoint: list[str]
    Env: list[str]
    Healthcheck: Healthcheck
    Hostname: str
    OpenStdin: bool
    Tty: bool
    User: str
    WorkingDir: str


class NetworkConfig(TypedDict):
    """Arguments of the SDK's `create_network`."""

    name: str
    driver: str
    labels: dict[str, str]
    options: dict[str, str]
    check_duplicate: bool


# -- what the engine answers


class HasId(TypedDict):
    """Something that the engine made."""

    Id: str


class Health(TypedDict, total=False):
    """The result of a container's health checks."""

    Status: str


class State(TypedDict, total=False):
    """The state of a container."""

    Status: Required[str]
    Error: str | None
    ExitCode: int | None
    FinishedAt: str | None
    Health: Health | None
    OOMKilled: bool
    Pid: int | None
    Running: bool
    StartedAt: str | None


class Labelled(TypedDict, total=False):
    """The configuration of a container."""

    Labels: dict[str, str] | None


class MountPoint(TypedDict, total=False):
    """A mount, as a container has it."""

    Destination: str
    Name: str
    Source: str
    Type: str


class GraphDriverData(TypedDict, total=False):
    """Where the engine keeps a container's root."""

    UpperDir: str


class GraphDriver(TypedDict, total=False):
    """The driver of a container's root."""

    Data: GraphDriverData | None


class Container(HasId):
    """The answer of `GET /containers/{id}/json`."""

    Name: str
    State: State
    Config: Labelled
    HostConfig: HostConfig
    GraphDriver: NotRequired[GraphDriver | None]
    Mounts: NotRequired[list[MountPoint] | None]


class ContainerSummary(HasId):
    """An element of `GET /containers/json`."""

    Names: list[str]
    Labels: dict[str, str]
    State: NotRequired[str]
    Mounts: NotRequired[list[MountPoint] | None]
    SizeRw: NotRequired[int | None]


class Image(HasId):
    """The answer of `GET /images/{name}/json`."""

    Size: int
    #: What containers inherit.
    Config: NotRequired[Mapping[str, object] | None]
    RepoTags: NotRequired[list[str] | None]


class ImageSummary(HasId):
    """An element of `GET /images/json`."""

    Size: int
    Labels: NotRequired[dict[str, str] | None]
    RepoTags: NotRequired[list[str] | None]


class AddressPool(TypedDict, total=False):
    """A range of addresses of a network."""

    Gateway: str


class AddressManagement(TypedDict, total=False):
    """The addresses of a network."""

    Config: list[AddressPool] | None


class Network(HasId):
    """An element of `GET /networks`."""

    Name: str
    IPAM: NotRequired[AddressManagement]


class VolumeUsage(TypedDict, total=False):
    """The size of a volume; -1 if it is unknown."""

    Size: int


class Volume(TypedDict):
    """A volume."""

    Name: str
    Labels: NotRequired[dict[str, str] | None]
    UsageData: NotRequired[VolumeUsage | None]


class Volumes(TypedDict, total=False):
    """The answer of `GET /volumes`, and a part of that of `GET /system/df`."""

    Volumes: list[Volume] | None


class Component(TypedDict, total=False):
    """A program of the engine."""

    Name: str
    Version: str


class Version(TypedDict, total=False):
    """The answer of `GET /version`."""

    Version: Required[str]
    ApiVersion: str
    Components: list[Component] | None


class MemoryDetails(TypedDict, total=False):
    """The kernel's account of a container's memory: the first name is that of cgroup v1."""

    total_inactive_file: int
    inactive_file: int


class MemoryStats(TypedDict, total=False):
    """A container's memory."""

    usage: int
    stats: MemoryDetails


class Stats(TypedDict, total=False):
    """What a container uses."""

    memory_stats: MemoryStats


class Swarm(TypedDict, total=False):
    """The engine's membership in a swarm."""

    LocalNodeState: str


class Info(TypedDict, total=False):
    """The answer of `GET /info`."""

    CgroupDriver: str
    CgroupVersion: str
    CpuCfsQuota: bool
    Driver: str
    LiveRestoreEnabled: bool
    MemTotal: int
    MemoryLimit: bool
    NCPU: int
    OSType: str
    OperatingSystem: str
    PidsLimit: bool
    SecurityOptions: list[str] | None
    Swarm: Swarm | None


class Execution(TypedDict):
    """The answer of `GET /exec/{id}/json`."""

    Running: bool
    ExitCode: int | None


class PullStep(TypedDict, total=False):
    """A line of the answer of `POST /images/create`."""

    error: str
    id: str
    status: str


class EventStream(Protocol):
    """The SDK's open answer of `GET /events`."""

    def __iter__(self) -> Iterator[object]: ...

    def close(self) -> None: ...


class ExecSocket(Protocol):
    """The connection to a command that runs in a container, as the SDK gives it."""

    #: The HTTP answer that it belongs to.
    _response: Closable


class Closable(Protocol):
    """Something to close."""

    def close(self) -> None: ...


Filters = Mapping[str, "str | bool | Sequence[str]"]


class Client(Protocol):
    """The methods of the SDK's `APIClient` that the runner calls."""

    def close(self) -> None: ...

    def version(self) -> Version: ...

    def info(self) -> Info: ...

    def df(self) -> Volumes: ...

    def events(
        self, *, decode: bool, filters: Filters, since: float | None = None, until: float | None = None
    ) -> EventStream: ...

    # -- images

    def images(self, *, filters: Filters | None = None) -> list[ImageSummary]: ...

    def inspect_image(self, image: str) -> Image: ...

    def pull(self, repository: str, *, tag: str | None, stream: bool, decode: bool) -> Iterator[PullStep]: ...

    def commit(self, container: str, *, repository: str, tag: str, conf: Mapping[str, object]) -> HasId: ...

    def remove_image(self, image: str, *, noprune: bool) -> object: ...

    # -- containers

    def containers(
        self,
        *,
        filters: Filters,
        all: bool = False,  # noqa: A002  # the SDK's name
        size: bool = False,
    ) -> list[ContainerSummary]: ...

    def inspect_container(self, container: str) -> Container: ...

    def create_container_from_config(self, config: ContainerConfig, name: str) -> HasId: ...

    def start(self, container: str) -> None: ...

    def kill(self, container: str, *, signal: str) -> None: ...

    def stats(self, container: str, *, stream: bool, one_shot: bool) -> Stats: ...

    def pause(self, container: str) -> None: ...

    def unpause(self, container: str) -> None: ...

    def rename(self, container: str, name: str) -> None: ...

    def wait(self, container: str, *, timeout: float) -> object: ...

    def logs(self, container: str, *, stdout: bool = True, stderr: bool = True) -> bytes: ...

    def get_archive(self, container: str, path: str) -> tuple[Iterator[bytes], object]: ...

    def remove_container(self, container: str, *, v: bool, force: bool) -> None: ...

    # -- commands in containers

    def exec_create(
        self,
        container: str,
        cmd: Sequence[str],
        *,
        stdout: bool = True,
        stderr: bool = True,
        user: str = "",
        environment: Sequence[str] | None = None,
        workdir: str | None = None,
    ) -> HasId: ...

    @overload
    def exec_start(self, exec_id: str, *, socket: Literal[True]) -> ExecSocket: ...

    @overload
    def exec_start(self, exec_id: str, *, detach: Literal[True]) -> object: ...

    def exec_inspect(self, exec_id: str) -> Execution: ...

    # -- networks and volumes

    def networks(
        self, *, names: Sequence[str] | None = None, filters: Filters | None = None
    ) -> list[Network]: ...

    def create_network(
        self,
        name: str,
        *,
        driver: str,
        labels: Mapping[str, str],
        options: Mapping[str, str],
        check_duplicate: bool,
    ) -> object: ...

    def remove_network(self, net_id: str) -> None: ...

    def volumes(self, *, filters: Filters) -> Volumes: ...

    def remove_volume(self, name: str) -> None: ...


def labels_of(image: Image) -> Mapping[str, str]:
    """Return an image's labels."""
    found = (image.get("Config") or {}).get("Labels")
    return found if isinstance(found, dict) else {}
