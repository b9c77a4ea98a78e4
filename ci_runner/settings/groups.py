"""The runner's settings: frozen groups, read once in `ci_runner.cli` (by `settings.loader`) and passed down.

Precedence: command line > environment > TOML file > default. Every field has a flag, an environment variable and a
TOML key, all derived from its metadata below. Importing this module does not read the environment.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar, overload

from pytest_remote_ci.wire.protocol import Priority

if TYPE_CHECKING:
    from typing_extensions import Unpack

_T = TypeVar("_T")

#: Seconds between full passes of the controller; also the replacement for an unusable interval.
DEFAULT_INTERVAL = 2.0


class _Details(TypedDict, total=False):
    """What a setting may have beyond its variables and its help."""

    #: Bytes, units allowed.
    size: bool
    choices: tuple[str, ...]
    #: Inclusive, exclusive, inclusive.
    minimum: float
    above: float
    maximum: float
    #: If the field's name would be ambiguous.
    flag: str
    #: A computed default, in words.
    shown: str
    #: An unusable value gives a warning and the default.
    lenient: bool
    #: Must not be shown.
    secret: bool
    #: For a list: checks one text and returns its normal form, or raises ValueError with a text for the operator.
    item: Callable[[str], str]


class SettingInfo(_Details):
    """The metadata of a field."""

    env: tuple[str, ...]
    help: str


@overload
def _setting(default: Callable[[], _T], env: str, help_text: str, **details: Unpack[_Details]) -> _T: ...


@overload
def _setting(default: _T, env: str, help_text: str, **details: Unpack[_Details]) -> _T: ...


def _setting(default: object, env: str, help_text: str, **details: Unpack[_Details]) -> object:
    """Return a field with its environment variable (`env`, or several separated by spaces) and a help text.

    A default that can be called makes the default.
    """
    info: SettingInfo = {"env": tuple(env.split()), "help": help_text, **details}
    if callable(default):
        return field(default_factory=default, metadata=info)
    return field(default=default, metadata=info)


def ipv4_network(text: str) -> str:
    """Return `text` in CIDR notation; a single address is a network of one. Raises ValueError."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network: write it like 10.1.0.0/16, or as one address") from None
    if network.version != 4:
        raise ValueError(f"{text!r}: containers have no IPv6, so only IPv4 networks can be opened")
    if str(network) not in (text, f"{text}/32"):
        raise ValueError(f"{text!r} is not a network: write {network}, or the address alone")
    return str(network)


def default_data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return ``$XDG_DATA_HOME/ci-runner``, else ``~/.local/share/ci-runner`` (XDG Base Directory Specification)."""
    try:
        base = environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    except RuntimeError:  # a user id without an account: no directory can be made below this
        base = os.devnull
    return Path(base) / "ci-runner"


@dataclass(frozen=True)
class StorageSettings:
    """Storage of all data, shared by all programs of one runner."""

    #: Blobs, trees, environments, spools; 0700.
    data_dir: Path = _setting(
        default_data_dir,
        "CI_RUNNER_DATA_DIR",
        "folder for all data of the runner",
        shown="~/.local/share/ci-runner",
    )
    #: The database; None: `runner.db` in the data directory.
    database: Path | None = _setting(
        None, "CI_RUNNER_DB CI_DB_PATH", "SQLite file", shown="runner.db in the data directory"
    )
    #: Free bytes on the disk below which nothing is accepted, and the running job that wrote most is ended.
    disk_reserve: int = _setting(
        1 << 30,
        "CI_RUNNER_DISK_RESERVE",
        "free disk space below which submissions are refused and the running job that wrote most is stopped",
        size=True,
        minimum=0,
    )

    @property
    def database_path(self) -> Path:
        """The path of the database, with the same default for all programs."""
        return self.database or self.data_dir / "runner.db"


@dataclass(frozen=True)
class ServeSettings:
    """The HTTP plane."""

    host: str = _setting("127.0.0.1", "CI_RUNNER_HOST", "address to listen on")
    port: int = _setting(
        8000, "CI_RUNNER_PORT", "port to listen on; 0: any free port", minimum=0, maximum=65535
    )
    #: Threads for ordinary requests; streams have additional threads.
    threads: int = _setting(16, "CI_RUNNER_THREADS", "threads for ordinary requests", minimum=1)
    max_streams: int = _setting(256, "CI_RUNNER_MAX_STREAMS", "open event streams; more get 503", minimum=1)
    max_streams_per_user: int = _setting(
        32, "CI_RUNNER_MAX_STREAMS_PER_USER", "open event streams per user; more get 429", minimum=1
    )
    max_streams_per_address: int = _setting(
        128,
        "CI_RUNNER_MAX_STREAMS_PER_ADDRESS",
        "open event streams per client address; more get 429",
        minimum=1,
    )
    max_connections: int = _setting(
        1000,
        "CI_RUNNER_MAX_CONNECTIONS",
        "open connections; above this, idle ones are closed, or new ones get 503",
        minimum=8,
    )
    max_connections_per_address: int = _setting(
        500,
        "CI_RUNNER_MAX_CONNECTIONS_PER_ADDRESS",
        "open connections per client address; more get 429; raise it if many clients share an address",
        minimum=4,
    )
    #: Further requests wait for their turn; none is refused.
    max_requests_per_user: int = _setting(
        8,
        "CI_RUNNER_MAX_REQUESTS_PER_USER",
        "requests served at once per user (or per address without a known key); more wait",
        minimum=1,
    )
    max_uploads_per_user: int = _setting(
        8, "CI_RUNNER_MAX_UPLOADS_PER_USER", "uploads at once per user; more get 429", minimum=1
    )
    metrics_token: str | None = _setting(
        None,
        "CI_RUNNER_METRICS_TOKEN",
        "what a scraper sends to GET /metrics; without it: no metrics",
        secret=True,
    )
    wrong_keys: int = _setting(
        10, "CI_RUNNER_WRONG_KEYS", "wrong keys per address and minute; more get 429", minimum=1
    )
    trusted_proxies: tuple[str, ...] = _setting(
        (),
        "CI_RUNNER_TRUSTED_PROXIES",
        "addresses or networks of reverse proxies whose X-Forwarded-For names the client",
        flag="trusted-proxy",
    )
    #: Bytes of a request's body.
    max_upload: int = _setting(512 << 20, "CI_RUNNER_MAX_UPLOAD", "largest upload", size=True, minimum=1)
    #: Total bytes of all unpacked files.
    max_unpacked: int = _setting(
        2 << 30, "CI_RUNNER_MAX_UNPACKED", "largest project after unpacking", size=True, minimum=1
    )
    max_files: int = _setting(
        50_000, "CI_RUNNER_MAX_FILES", "maximum number of files in a project", minimum=1
    )
    max_queued_per_user: int = _setting(
        500, "CI_RUNNER_MAX_QUEUED_PER_USER", "waiting jobs per user; more get 429", minimum=1
    )
    #: Seconds of silence after which a stream gets a comment line.
    heartbeat: float = _setting(
        10.0, "CI_RUNNER_HEARTBEAT", "seconds between heartbeats on silent streams", above=0
    )
    reconcile: bool = _setting(False, "CI_RUNNER_RECONCILE", "run the controller in the same process")
    #: Seconds without any job or request after which an embedded runner ends; None: never.
    idle_exit: float | None = _setting(
        None, "CI_RUNNER_IDLE_EXIT", "end after this many idle seconds", above=0, shown="never"
    )


@dataclass(frozen=True)
class ReconcileSettings:
    """The controller."""

    engine: str = _setting(
        "docker", "CI_RUNNER_ENGINE", "docker, process, auto, or an engine registered by a plugin"
    )
    #: Seconds between full passes; changes wake it sooner.
    interval: float = _setting(
        DEFAULT_INTERVAL,
        "CI_RUNNER_INTERVAL CI_RECONCILE_INTERVAL",
        "seconds between full passes",
        above=0,
        lenient=True,
    )
    prefix: str = _setting("cir-", "CI_RUNNER_PREFIX CI_CONTAINER_PREFIX", "prefix of container names")
    #: None: `python:<version>-slim`; ``{python}`` is replaced by the version.
    base_image: str | None = _setting(
        None,
        "CI_RUNNER_BASE_IMAGE CI_PYTHON_BASE_IMAGE",
        "default image of jobs; `{python}` is replaced by the version",
        shown="python:{python}-slim",
    )
    default_python: str = _setting("3.12", "CI_RUNNER_DEFAULT_PYTHON", "Python of jobs that name none")
    #: Images that users may name, as fnmatch patterns; (): any.
    allowed_images: tuple[str, ...] = _setting(
        (), "CI_RUNNER_ALLOWED_IMAGES", "patterns of images that users may choose; none given: any image"
    )
    #: Packages that jobs may install, as fnmatch patterns; (): none.
    allowed_packages: tuple[str, ...] = _setting(
        (),
        "CI_RUNNER_ALLOWED_PACKAGES",
        "patterns of the distribution's packages that users may install, such as `lib*-dev`; none given: no package",
        shown="none",
    )
    concurrency: int = _setting(
        lambda: max(1, os.cpu_count() or 1),
        "CI_RUNNER_CONCURRENCY",
        "jobs running at once",
        minimum=1,
        shown="number of processors",
    )
    warm_containers: int = _setting(
        lambda: max(1, os.cpu_count() or 1),
        "CI_RUNNER_WARM_CONTAINERS",
        "containers that are started for the next job of a project and wait; 0: none",
        minimum=0,
        shown="number of processors",
    )
    warm_memory: int = _setting(
        1 << 30,
        "CI_RUNNER_WARM_MEMORY",
        "memory that all of these may take together while they wait",
        size=True,
        minimum=0,
    )
    builds: int = _setting(
        2,
        "CI_RUNNER_BUILDS",
        "environment builds of one user at once; another user's gets one more place",
        minimum=1,
    )
    #: Seconds.
    test_timeout: float = _setting(
        3600.0, "CI_RUNNER_TEST_TIMEOUT", "limit for the tests of a job, in seconds", above=0
    )
    prepare_timeout: float = _setting(
        900.0, "CI_RUNNER_PREPARE_TIMEOUT", "limit for preparing a job, in seconds", above=0
    )
    #: Seconds between TERM and KILL.
    grace: float = _setting(10.0, "CI_RUNNER_GRACE", "seconds between TERM and KILL", minimum=0)
    cpus: float = _setting(1.0, "CI_RUNNER_CPUS", "processors per job", above=0)
    max_cpus: float = _setting(
        lambda: float(os.cpu_count() or 1),
        "CI_RUNNER_MAX_CPUS",
        "maximum number of processors that a job may request",
        above=0,
        shown="number of processors",
    )
    memory: int = _setting(2 << 30, "CI_RUNNER_MEMORY", "memory per job", size=True, minimum=6 << 20)
    max_memory: int = _setting(
        8 << 30, "CI_RUNNER_MAX_MEMORY", "maximum memory that a job may request", size=True, minimum=6 << 20
    )
    #: Bytes of folders in memory and of one file, and open files of a process.
    max_shm_size: int = _setting(
        8 << 30,
        "CI_RUNNER_MAX_SHM_SIZE",
        "largest /dev/shm that a job may request",
        size=True,
        minimum=1 << 20,
    )
    max_tmp_size: int = _setting(
        8 << 30,
        "CI_RUNNER_MAX_TMP_SIZE",
        "largest /tmp and /var/tmp that a job may request",
        size=True,
        minimum=1 << 20,
    )
    max_home_size: int = _setting(
        8 << 30,
        "CI_RUNNER_MAX_HOME_SIZE",
        "largest home folder that a job may request",
        size=True,
        minimum=1 << 20,
    )
    max_file_size: int = _setting(
        4 << 30,
        "CI_RUNNER_MAX_FILE_SIZE",
        "largest file that a job may request to write",
        size=True,
        minimum=1 << 20,
    )
    max_open_files: int = _setting(
        65_536, "CI_RUNNER_MAX_OPEN_FILES", "open files that a job may request per process", minimum=64
    )
    pids: int = _setting(512, "CI_RUNNER_PIDS", "processes per job", minimum=8)
    #: Bytes that a job may write (workspace, output and data of its services, together).
    disk: int = _setting(
        4 << 30, "CI_RUNNER_DISK", "bytes that a job and its services may write", size=True, minimum=1 << 20
    )
    network: Literal["egress", "none"] = _setting(
        "egress",
        "CI_RUNNER_NETWORK",
        "egress (the internet, but no private networks and no other jobs) or none",
        choices=("egress", "none"),
    )
    #: IPv4 networks in the notation of `ipaddress`.
    allow_network: tuple[str, ...] = _setting(
        (),
        "CI_RUNNER_ALLOW_NETWORK",
        "private networks that jobs and builds may reach, such as `10.1.0.0/16` or one address",
        item=ipv4_network,
    )
    #: Bytes of log stored per job.
    log_budget: int = _setting(
        256 << 20, "CI_RUNNER_LOG_BUDGET", "bytes of log stored per job", size=True, minimum=1 << 16
    )
    log_retention_days: float = _setting(
        30.0, "CI_RUNNER_LOG_RETENTION_DAYS", "days after which logs of finished jobs are deleted", above=0
    )
    #: Bytes of one artifact, and of all of one job; files of one job; bytes of all artifacts of a user.
    max_artifact: int = _setting(
        512 << 20, "CI_RUNNER_MAX_ARTIFACT", "largest artifact", size=True, minimum=0
    )
    max_artifacts: int = _setting(
        1 << 30, "CI_RUNNER_MAX_ARTIFACTS", "bytes of artifacts per job", size=True, minimum=0
    )
    max_artifact_files: int = _setting(
        10_000, "CI_RUNNER_MAX_ARTIFACT_FILES", "maximum number of artifacts per job", minimum=0
    )
    artifact_quota: int = _setting(
        10 << 30,
        "CI_RUNNER_ARTIFACT_QUOTA",
        "bytes of artifacts per user",
        size=True,
        minimum=0,
    )
    max_kept: int = _setting(
        2 << 30,
        "CI_RUNNER_MAX_KEPT",
        "bytes that jobs of one user and project may leave to the next job; 0: nothing is kept",
        size=True,
        minimum=0,
    )
    result_retention_days: float = _setting(
        90.0,
        "CI_RUNNER_RESULT_RETENTION_DAYS",
        "days after which results of single tests are deleted",
        above=0,
    )
    artifact_retention_days: float = _setting(
        7.0, "CI_RUNNER_ARTIFACT_RETENTION_DAYS", "days after which artifacts are deleted", above=0
    )


@dataclass(frozen=True)
class EnvironmentSettings:
    """Environment builds: package indexes, proxies and limits."""

    index_url: str | None = _setting(
        None, "CI_RUNNER_INDEX_URL", "package index (PEP 503) instead of PyPI", secret=True
    )
    extra_index_urls: tuple[str, ...] = _setting(
        (), "CI_RUNNER_EXTRA_INDEX_URLS", "further indexes", secret=True
    )
    #: A PEM file of the host; mounted into builds (and test containers); SSL_CERT_FILE, PIP_CERT, … name it.
    ca_bundle: Path | None = _setting(
        None, "CI_RUNNER_CA_BUNDLE", "PEM file of certificate authorities for builds and jobs"
    )
    http_proxy: str | None = _setting(
        None, "CI_RUNNER_HTTP_PROXY", "HTTP proxy for builds and jobs", secret=True
    )
    https_proxy: str | None = _setting(
        None, "CI_RUNNER_HTTPS_PROXY", "HTTPS proxy for builds and jobs", secret=True
    )
    no_proxy: str | None = _setting(None, "CI_RUNNER_NO_PROXY", "hosts reached without a proxy")
    #: Total bytes of environments; the least recently used are deleted first.
    cache_size: int = _setting(
        20 << 30, "CI_RUNNER_CACHE_SIZE", "bytes of prepared environments in the cache", size=True, minimum=0
    )
    build_memory: int = _setting(
        4 << 30, "CI_RUNNER_BUILD_MEMORY", "memory per environment build", size=True, minimum=6 << 20
    )


@dataclass(frozen=True)
class LogSettings:
    """The runner's own log (stderr)."""

    level: str = _setting(
        "INFO",
        "CI_RUNNER_LOG_LEVEL",
        "lowest severity that is logged",
        choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
        flag="log-level",
    )
    format: Literal["text", "json"] = _setting(
        "text",
        "CI_RUNNER_LOG_FORMAT",
        "text lines or JSON objects",
        choices=("text", "json"),
        flag="log-format",
    )


@dataclass(frozen=True)
class Settings:
    """All groups; TOML tables have the groups' names."""

    storage: StorageSettings = field(default_factory=StorageSettings)
    serve: ServeSettings = field(default_factory=ServeSettings)
    reconcile: ReconcileSettings = field(default_factory=ReconcileSettings)
    environments: EnvironmentSettings = field(default_factory=EnvironmentSettings)
    log: LogSettings = field(default_factory=LogSettings)


#: Rank of a priority, 0 starts first; for `admin user` options and submissions.
PRIORITY_RANK: Mapping[Priority, int] = {"high": 0, "normal": 1, "low": 2}
