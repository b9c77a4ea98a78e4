"""The format shared by both sides: submission options, manifests, statuses, keys.

Standard library only; `ci_runner` imports this module, never the reverse. Everything that a peer sends is parsed here
into frozen values. Every refusal is a `WireError` that names the field and the remedy. The contract in prose is
`docs/reference/wire.md`.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Literal

from pytest_remote_ci.wire import checks, interpreter_options, job_variables, keep, limits
from pytest_remote_ci.wire.checks import WireError, parse_size
from pytest_remote_ci.wire.timing import as_client_phases

__all__ = [
    "Manifest",
    "ManifestEntry",
    "SubmitOptions",
    "WireError",
    "is_digest",
    "parse_json",
    "parse_size",
]

#: Increased when a change would break an older peer. Each side's error message names the version of the other.
PROTOCOL: Final = 1
#: Version of a submission's options that a runner must know, because it could not do without: older runners, which
#: ignore unknown options, refuse it.
STRICT_PROTOCOL: Final = 2

Status = Literal["queued", "running", "completed", "failed", "cancelled"]
Phase = Literal["queued", "preparing", "starting", "testing", "finishing"]
LogStream = Literal["terminal", "stdout", "stderr", "runner"]
Priority = Literal["high", "normal", "low"]
#: When a job's artifacts are stored: always, only if the job passed, or only if it did not.
ArtifactsWhen = Literal["always", "success", "failure"]
Network = Literal["egress", "none"]

STATUSES: Final[tuple[Status, ...]] = ("queued", "running", "completed", "failed", "cancelled")
TERMINAL_STATUSES: Final[frozenset[str]] = frozenset({"completed", "failed", "cancelled"})
PHASES: Final[tuple[Phase, ...]] = ("queued", "preparing", "starting", "testing", "finishing")
PRIORITIES: Final[tuple[Priority, ...]] = ("high", "normal", "low")

#: Most text in one log event (bytes of UTF-8).
LOG_CHUNK_BYTES: Final = 64 * 1024


#: A key of the runner: `ci_`, 8 characters of id, 32 of secret, 6 of checksum, all base62.
KEY_PATTERN: Final = re.compile(r"ci_[0-9A-Za-z]{46}(?![0-9A-Za-z])")

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class SubmitOptions:
    """The options of a submission: the JSON of the multipart part ``options``.

    Every field has a default. So a client that sends nothing but a zip in ``file`` gets ``python -m pytest -v`` at
    the root of that zip.
    """

    #: pytest's arguments, verbatim (paths inside `root` are absolute paths of the client or relative to `cwd`).
    args: tuple[str, ...] = ()
    #: Absolute path of the project on the client (any path syntax); None for a client that sends no options.
    root: str | None = None
    #: Directory below `root` in which pytest runs, in POSIX form; "" is the root itself.
    cwd: str = ""
    #: The folder of the workspace that is `root`, if other folders travel beside the project; "": the project is all.
    #: Every path and pattern of these options and of results is relative to the project.
    project_folder: str = ""
    #: Run as ``python -m pytest`` does (cwd on sys.path); False runs as the ``pytest`` script does.
    module: bool = True
    #: Options of the interpreter that runs pytest, such as ``-Werror`` and ``-O`` (`interpreter_options`).
    interpreter_options: tuple[str, ...] = ()
    #: The Python that runs the tests, such as ``"3.12"``; None means the runner's default.
    python: str | None = None
    #: Base image; None means the runner's default for `python`.
    image: str | None = None
    #: Requirements files to install, relative to `root`; empty means that the runner looks for them.
    requirements: tuple[str, ...] = ()
    #: Extras of the project to install.
    extras: tuple[str, ...] = ()
    #: Dependency groups (PEP 735) to install; empty means that the runner tries test, tests, dev, testing.
    groups: tuple[str, ...] = ()
    #: Whether to install the project (editable); None means only if it is a package.
    install_project: bool | None = None
    #: Whether the environment has pip, and setuptools before Python 3.12, as those of ``python -m venv`` have.
    pip: bool = True
    #: Packages of the image's distribution to install (`pytest_remote_ci.wire.system_packages`), if the operator allows
    #: them.
    packages: tuple[str, ...] = ()
    #: Whether the workspace has a git repository of the client's making.
    git: bool = False
    #: Environment variables of the job (name → value) that the developer chose to pass.
    env: Mapping[str, str] = field(default_factory=dict)
    #: Seconds of testing after which the job is stopped; None means the runner's default.
    timeout: float | None = None
    #: Processors (1.5 means one and a half); None means the runner's default.
    cpus: float | None = None
    #: Bytes of memory; None means the runner's default.
    memory: int | None = None
    #: Bytes of /dev/shm, of /tmp and /var/tmp each, and of the home folder, which count as memory; None means the
    #: runner's default.
    shm_size: int | None = None
    tmp_size: int | None = None
    home_size: int | None = None
    #: Bytes of the largest file; None means the runner's default.
    file_size: int | None = None
    #: Files that one process may have open; None means the runner's default.
    open_files: int | None = None
    #: "egress" or "none"; None means the runner's default. It can only be narrowed.
    network: Network | None = None
    #: Patterns (`pytest_remote_ci.wire.globs`) of files to keep after the run.
    artifacts: tuple[str, ...] = ()
    #: Programs that run alongside the tests, reachable by name: objects with `name` and `image`, and optionally `env`,
    #: `health` (a shell command that exits with 0 once the service is ready), `ports` (that must accept connections),
    #: `command`.
    services: tuple[checks.ServiceOptions, ...] = ()
    #: When the artifacts are stored.
    artifacts_when: ArtifactsWhen = "always"
    #: Days for which the artifacts are stored; None means the runner's default. It can only be shortened.
    artifacts_days: float | None = None
    #: Patterns of reports, such as coverage data and JUnit files, that are stored whenever the run made them, passed or
    #: not.
    reports: tuple[str, ...] = ()
    #: Patterns (`pytest_remote_ci.wire.keep`) of files that the next job of the same user and project gets.
    keep: tuple[str, ...] = keep.DEFAULT
    #: A display name.
    name: str | None = None
    #: Capped by the operator's limit for the user.
    priority: Priority = "normal"
    #: The client's version of pytest; installed if the project names none.
    pytest_version: str | None = None
    #: The version from the project's version control (setuptools-scm and others), because `.git` is not sent.
    scm_version: str | None = None
    #: Whether the client's terminal shows colours.
    color: bool = False
    #: Width of the client's terminal in columns.
    columns: int = 80
    #: Whether to record the session, so that a client can replay it as its own pytest's.
    records: bool = False
    #: Most restarts of pytest after a test took it down, to run the remaining tests; for recorded sessions only.
    restarts: int = 3
    #: Whether a new container is started, even if one waits for a job like this one.
    cold_start: bool = False
    #: Seconds of the phases before the upload, as the client measured them (`pytest_remote_ci.wire.timing`).
    timing: Mapping[str, float] = field(default_factory=dict)
    #: Options of plugins, each under its own name (hook `pytest_remote_ci_submission`).
    extra: Mapping[str, object] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return a JSON-ready dictionary. Fields with default values are omitted, for the sake of older runners."""
        result: dict[str, object] = {"protocol": STRICT_PROTOCOL if self.strict() else PROTOCOL}
        default = SubmitOptions()
        for item in fields(self):
            value = getattr(self, item.name)
            if value != getattr(default, item.name):
                result[item.name] = list(value) if isinstance(value, tuple) else value
        return result

    def strict(self) -> list[str]:
        """Return the names of the options that are set and that a runner must not ignore."""
        return [name for name in (*limits.NAMES, "packages", "project_folder", "git") if getattr(self, name)]

    @classmethod
    def from_dict(cls, raw: object) -> SubmitOptions:
        """Parse and check; raises `WireError` naming the field. Unknown keys, from a newer client, are ignored."""
        if not isinstance(raw, dict):
            raise WireError("options: must be a JSON object")
        protocol = raw.get("protocol", PROTOCOL)
        if protocol not in (PROTOCOL, STRICT_PROTOCOL):
            raise WireError(
                f"options.protocol: this runner speaks version {STRICT_PROTOCOL}, the client {protocol}"
            )
        known = {item.name: raw[item.name] for item in fields(cls) if raw.get(item.name) is not None}
        checked = {name: CHECKS[name](f"options.{name}", value) for name, value in known.items()}
        # `CHECKS` gives each value the type of its field.
        return cls(**checked)  # type: ignore[arg-type]

    @classmethod
    def from_client(cls, raw: object) -> SubmitOptions:
        """Parse options from a client: as `from_dict`, and variables that no job may have are refused."""
        found = cls.from_dict(raw)
        job_variables.check("options.env", found.env)
        return found

    @classmethod
    def from_json(cls, text: str | bytes) -> SubmitOptions:
        """Parse options from a client's JSON, as `from_client`; raises `WireError` for anything that is not JSON."""
        return cls.from_client(parse_json("options", text, surrogates=True))


#: Permissions of files: writable or not, executable or not.
FILE_MODES: Final = (0o644, 0o755, 0o444, 0o555)


def file_mode(mode: int) -> int:
    """Return the permissions with which a file of this mode travels."""
    is_read_only = bool(mode & 0o400) and not mode & 0o200
    executable = 0o111 if mode & 0o100 else 0
    return (0o444 if is_read_only else 0o644) | executable


@dataclass(frozen=True)
class ManifestEntry:
    """One file of a workspace."""

    #: Relative POSIX path, NFC as on the client's disk, no ``.`` or ``..`` parts.
    path: str
    #: One of `FILE_MODES`.
    mode: int
    #: Bytes.
    size: int
    #: Hexadecimal SHA-256 of the content.
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The files of a workspace, sorted by path. Its digest identifies the workspace."""

    files: tuple[ManifestEntry, ...]
    #: Absolute path of the project on the client; not part of the digest.
    root: str | None = None
    #: Path → modification time in integer nanoseconds, only when an option needs them; not part of the digest.
    mtimes: Mapping[str, int] = field(default_factory=dict)
    #: Path of a symbolic link → its target: a relative path that does not lead out of the project.
    links: Mapping[str, str] = field(default_factory=dict)
    #: Empty folders.
    folders: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return a JSON-ready dictionary, as sent in the multipart part ``manifest``."""
        result: dict[str, object] = {
            "protocol": PROTOCOL,
            "files": [[entry.path, entry.mode, entry.size, entry.sha256] for entry in self.files],
        }
        if self.links:
            result["links"] = dict(self.links)
        if self.folders:
            result["folders"] = list(self.folders)
        if self.root is not None:
            result["root"] = self.root
        if self.mtimes:
            result["mtimes"] = dict(self.mtimes)
        return result

    @classmethod
    def from_dict(cls, raw: object) -> Manifest:
        """Parse and check types and digests; raises `WireError`.

        Whether the paths are safe is checked by the runner (`ci_runner.model.path_checks`).
        """
        if not isinstance(raw, dict) or not isinstance(raw.get("files"), list):
            raise WireError("manifest: must be a JSON object with a list 'files'")
        if raw.get("protocol", PROTOCOL) != PROTOCOL:
            raise WireError(f"manifest.protocol: this runner speaks version {PROTOCOL}")
        entries = []
        for index, item in enumerate(raw["files"]):
            if not (isinstance(item, list) and len(item) == 4):
                raise WireError(f"manifest.files[{index}]: must be [path, mode, size, sha256]")
            path, mode, size, sha256 = item
            if not (isinstance(path, str) and type(mode) is int and type(size) is int and size >= 0):
                raise WireError(f"manifest.files[{index}]: must be [text, integer, integer, text]")
            if not (isinstance(sha256, str) and _DIGEST.match(sha256)):
                raise WireError(f"manifest.files[{index}]: {sha256!r} is not a SHA-256 digest")
            entries.append(ManifestEntry(path, file_mode(mode), size, sha256))
        mtimes = raw.get("mtimes") or {}
        if not (isinstance(mtimes, dict) and all(type(value) is int for value in mtimes.values())):
            raise WireError("manifest.mtimes: must be an object of integers (nanoseconds)")
        root = raw.get("root")
        if root is not None and not isinstance(root, str):
            raise WireError("manifest.root: must be text")
        links, folders = raw.get("links") or {}, raw.get("folders") or []
        if not (isinstance(links, dict) and all(isinstance(target, str) for target in links.values())):
            raise WireError("manifest.links: must be an object of texts")
        if not (isinstance(folders, list) and all(isinstance(folder, str) for folder in folders)):
            raise WireError("manifest.folders: must be a list of texts")
        files = tuple(sorted(entries, key=lambda entry: entry.path))
        return cls(files, root, mtimes, links, tuple(sorted(folders)))

    def canonical(self) -> bytes:
        """Return the bytes to hash for the workspace's digest (SHA-256): paths, modes, sizes, contents' digests.

        Rows of links and folders follow those of files: the target in place of the digest.
        """
        rows: list[list[str | int]] = [
            [entry.path, entry.mode, entry.size, entry.sha256]
            for entry in sorted(self.files, key=lambda e: e.path)
        ]
        rows += [[path, stat.S_IFLNK | 0o777, 0, target] for path, target in sorted(self.links.items())]
        rows += [[path, stat.S_IFDIR | 0o755, 0, ""] for path in sorted(self.folders)]
        return json.dumps(rows, ensure_ascii=True, separators=(",", ":")).encode()

    @classmethod
    def from_canonical(cls, content: bytes) -> Manifest:
        """Return the manifest with these canonical bytes."""
        files: list[ManifestEntry] = []
        links: dict[str, str] = {}
        folders: list[str] = []
        for path, mode, size, text in json.loads(content):
            if stat.S_ISLNK(mode):
                links[path] = text
            elif stat.S_ISDIR(mode):
                folders.append(path)
            else:
                files.append(ManifestEntry(path, mode, size, text))
        return cls(tuple(files), links=links, folders=tuple(folders))


def parse_json(what: str, text: str | bytes, *, surrogates: bool = False) -> object:
    """Parse strict JSON (UTF-8, no NaN, bounded depth and digits); raises `WireError` that starts with `what`.

    `surrogates` allows lone surrogates, for callers that check texts themselves and can name the field.
    """
    try:
        # From bytes, json would also accept UTF-16 and encoded surrogates.
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(text, parse_constant=_refuse_constant)
        if not surrogates and "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise WireError(f"{what}: not valid JSON (half of a surrogate pair)") from error
    except (ValueError, RecursionError) as error:
        raise WireError(f"{what}: not valid JSON ({error})") from error
    return value


def is_digest(text: object) -> bool:
    """Return whether `text` is a lower-case hexadecimal SHA-256."""
    return isinstance(text, str) and _DIGEST.match(text) is not None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


CHECKS: Final[Mapping[str, checks.Check[object]]] = {
    "args": checks.as_texts,
    "root": checks.as_text,
    "cwd": checks.as_relative,
    "project_folder": checks.as_relative,
    "module": checks.as_flag,
    "interpreter_options": interpreter_options.as_interpreter_options,
    "python": checks.as_python,
    "image": checks.as_text,
    "requirements": checks.as_relatives,
    "extras": checks.as_texts,
    "groups": checks.as_texts,
    "install_project": checks.as_flag,
    "pip": checks.as_flag,
    "packages": checks.as_packages,
    "git": checks.as_flag,
    "cold_start": checks.as_flag,
    "env": checks.as_environment,
    "timeout": checks.as_positive,
    "cpus": checks.as_positive,
    "memory": checks.as_bytes,
    **dict.fromkeys(limits.SIZES, checks.as_limit_size),
    "open_files": checks.as_open_files,
    "network": checks.as_one_of("egress", "none"),
    "services": checks.as_services,
    "artifacts": checks.as_globs,
    "artifacts_when": checks.as_one_of("always", "success", "failure"),
    "artifacts_days": checks.as_positive,
    "reports": checks.as_globs,
    "keep": checks.as_keep,
    "name": checks.as_text,
    "priority": checks.as_one_of(*PRIORITIES),
    "pytest_version": checks.as_text,
    "scm_version": checks.as_text,
    "color": checks.as_flag,
    "columns": checks.as_columns,
    "records": checks.as_flag,
    "restarts": checks.as_restarts,
    "timing": as_client_phases,
    "extra": checks.as_mapping,
}
