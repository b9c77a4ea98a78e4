"""Checks of single values that a peer sends: each takes a location and the raw value, and returns the checked value.

All raise `WireError` with one line that names the location and the expected value. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypedDict, TypeVar

from pytest_remote_ci.wire import control_characters, globs, keep, limits, system_packages

_T_co = TypeVar("_T_co", covariant=True)
#: A check of a single value.
Check = Callable[[str, object], _T_co]

#: Most services of one job.
MAX_SERVICES: Final = 8
#: Keys of a service.
SERVICE_KEYS: Final = ("name", "image", "env", "health", "ports", "command", "shm_size")
#: Most patterns of artifacts in a submission; the same limit applies to patterns of reports.
MAX_PATTERNS: Final = 200

#: Most variables of one job, and most bytes in all of them. The kernel gives a program 2 MiB for its variables and
#: arguments.
MAX_VARIABLES: Final = 1000
MAX_ENVIRONMENT: Final = 1 << 20

#: Upper bound of any size in bytes (exclusive); far more than any machine has.
MAX_SIZE: Final = 1 << 60

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
#: A label of a host name (RFC 1123).
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_PYTHON = re.compile(r"3\.\d{1,2}\Z")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\Z", re.IGNORECASE)


class WireError(ValueError):
    """A peer sent something that the contract does not allow. The message is one line for the peer's user."""


def parse_size(text: str | int) -> int:
    """Return the bytes of a size such as ``"2g"``, ``"512MB"`` or ``1048576`` (powers of 1024, as in Docker)."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = _SIZE.match(str(text).strip())
    if match is None:
        raise WireError(f"{text!r} is not a size: write a number and a unit, such as 512m or 2g")
    try:
        return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))
    except OverflowError as error:  # more digits than a float can hold
        raise WireError("this size is out of range: write a number and a unit, such as 2g") from error


def as_text(where: str, value: object) -> str:
    """Return a text of at most 4096 characters."""
    if not isinstance(value, str) or "\0" in value or len(value) > 4096:
        raise WireError(f"{where}: must be text of at most 4096 characters")
    return value


def as_texts(where: str, value: object) -> tuple[str, ...]:
    """Return a list of strings as a tuple."""
    if not isinstance(value, (list, tuple)) or len(value) > 10_000:
        raise WireError(f"{where}: must be a list of strings")
    return tuple(as_long_text(f"{where}[{index}]", item) for index, item in enumerate(value))


def as_long_text(where: str, value: object) -> str:
    """Return a text that is short enough for a command-line argument."""
    if not isinstance(value, str) or "\0" in value or _size(value) > 131_071:  # MAX_ARG_STRLEN on Linux
        raise WireError(f"{where}: must be text without NUL characters, at most 131071 bytes long")
    return value


def _size(text: str) -> int:
    """Return a text's bytes as an argument; for a text that cannot be encoded, more than any argument may have."""
    try:
        return len(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return 1 << 62


def as_flag(where: str, value: object) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise WireError(f"{where}: must be true or false")
    return value


def as_positive(where: str, value: object) -> float:
    """Return a number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise WireError(f"{where}: must be a number above 0")
    return float(value)


def as_bytes(where: str, value: object) -> int:
    """Return a number of bytes."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise WireError(f"{where}: must be a number of bytes or a size such as 2g")
    try:
        size = parse_size(value)
    except WireError as error:
        raise WireError(f"{where}: {error}") from error
    if not 0 <= size < MAX_SIZE:  # 0 means the runner's default; older clients may send it
        raise WireError(f"{where}: must be more than 0 bytes and less than 1 EiB")
    return size


def as_limit_size(where: str, value: object) -> int:
    """Return the bytes of one of the `limits`."""
    try:
        size = as_bytes(where, value)
    except WireError:
        size = 0
    if not limits.is_size(size):
        raise WireError(f"{where}: must be {limits.SIZE_WORDS}")
    return size


def as_open_files(where: str, value: object) -> int:
    """Return a number of open files."""
    if not isinstance(value, int) or not limits.is_open_files(value):
        raise WireError(f"{where}: must be {limits.FILES_WORDS}")
    return value


def as_globs(where: str, value: object) -> tuple[str, ...]:
    """Return a list of patterns (`pytest_remote_ci.wire.globs`) as a tuple."""
    return _as_list_of(where, value, "patterns", MAX_PATTERNS, globs.problem)


def as_keep(where: str, value: object) -> tuple[str, ...]:
    """Return a list of patterns (`pytest_remote_ci.wire.keep`) as a tuple."""
    patterns = _as_list_of(where, value, "patterns", keep.MAX_PATTERNS, keep.problem)
    return tuple(dict.fromkeys(patterns))


def as_packages(where: str, value: object) -> tuple[str, ...]:
    """Return a list of names of system packages (`pytest_remote_ci.wire.system_packages`) as a tuple."""
    names = _as_list_of(where, value, "packages", system_packages.MAX_PACKAGES, system_packages.problem)
    return tuple(dict.fromkeys(names))


def _as_list_of(
    where: str, value: object, what: str, most: int, problem_of: Callable[[str], str | None]
) -> tuple[str, ...]:
    """Return a list of texts as a tuple; `problem_of` returns what is wrong with one of them, else None."""
    texts = as_texts(where, value)
    if len(texts) > most:
        raise WireError(f"{where}: at most {most} {what}")
    for index, text in enumerate(texts):
        problem = problem_of(text)
        if problem is not None:
            raise WireError(f"{where}[{index}]: {text[:200]!r} {problem}")
    return texts


def as_relative(where: str, value: object) -> str:
    """Return a path below the project, in POSIX form."""
    text = as_text(where, value)
    parts = text.replace("\\", "/").split("/")
    if text.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        raise WireError(f"{where}: {text!r} must be a path below the project, without '..'")
    problem = control_characters.name_problem(text)
    if problem is not None:
        raise WireError(f"{where}: {text!r} {problem}")
    return "/".join(part for part in parts if part not in ("", "."))


def as_relatives(where: str, value: object) -> tuple[str, ...]:
    """Return a list of paths below the project as a tuple."""
    return tuple(as_relative(f"{where}[{index}]", item) for index, item in enumerate(as_texts(where, value)))


def as_python(where: str, value: object) -> str:
    """Return a Python version such as "3.12"."""
    if not isinstance(value, str) or not _PYTHON.match(value):
        raise WireError(f"{where}: {value!r} is not a Python version: write it like '3.12'")
    return value


def as_environment(where: str, value: object) -> dict[str, str]:
    """Return names and values of environment variables."""
    if not isinstance(value, dict):
        raise WireError(f"{where}: must be an object of texts")
    if len(value) > MAX_VARIABLES:
        raise WireError(f"{where}: at most {MAX_VARIABLES} variables")
    for name, content in value.items():
        if not isinstance(name, str) or len(name) > 1000 or not _ENV_NAME.match(name):
            raise WireError(f"{where}: {str(name)[:100]!r} is not a valid name of an environment variable")
        as_long_text(f"{where}.{name}", content)
    if sum(len(name) + _size(content) for name, content in value.items()) > MAX_ENVIRONMENT:
        raise WireError(f"{where}: the variables have more than {MAX_ENVIRONMENT} bytes together")
    return dict(value)


def as_one_of(*allowed: str) -> Check[str]:
    """Return a check that accepts only these words."""

    def check(where: str, value: object) -> str:
        if value not in allowed:
            raise WireError(f"{where}: must be one of {', '.join(allowed)}, not {value!r}")
        return str(value)

    return check


def as_columns(where: str, value: object) -> int:
    """Return the width of a terminal in columns."""
    if type(value) is not int or not 1 <= value <= 10_000:
        raise WireError(f"{where}: must be an integer from 1 to 10000")
    return value


class _ServiceLimits(TypedDict, total=False):
    """What a service has only if it asks for it, for older runners know no such key."""

    #: Bytes of its /dev/shm.
    shm_size: int


class ServiceOptions(_ServiceLimits):
    """A program that runs alongside the tests, reachable by its name."""

    name: str
    image: str
    #: TCP ports that must accept connections.
    ports: list[int]
    env: dict[str, str]
    #: A shell command that exits with 0 once the service is ready.
    health: str | None
    command: list[str]


def as_services(where: str, value: object) -> tuple[ServiceOptions, ...]:
    """Return the services of one job, each with all its keys but its own limits."""
    if not isinstance(value, (list, tuple)) or len(value) > MAX_SERVICES:
        raise WireError(f"{where}: must be a list of at most {MAX_SERVICES} services")
    found = tuple(as_service(f"{where}[{index}]", item) for index, item in enumerate(value))
    names = [service["name"] for service in found]
    for name in names:
        if names.count(name) > 1:
            raise WireError(f"{where}: two services are named {name!r}")
    return found


def is_service_name(name: str) -> bool:
    """Return whether a service can have this host name."""
    return _HOST.match(name) is not None and name not in ("localhost", "job")


def service_name(image: str) -> str:
    """Return the name of a service that has none: ``postgres`` for ``docker.io/library/postgres:17``."""
    return image.rpartition("/")[2].partition("@")[0].partition(":")[0].lower()


def as_service(where: str, value: object) -> ServiceOptions:
    """Return one service with all its keys but its own limits."""
    raw = as_mapping(where, value)
    for key in raw.keys() - {*SERVICE_KEYS}:
        raise WireError(f"{where}: unknown key {key!r}; valid keys are {', '.join(SERVICE_KEYS)}")
    if not raw.get("image"):
        raise WireError(f"{where}.image: must name an image")
    name = raw.get("name")
    if not (isinstance(name, str) and is_service_name(name)):
        raise WireError(f"{where}.name: {name!r} cannot be a host name: use a-z, 0-9 and '-'")
    ports = raw.get("ports") or ()
    if not isinstance(ports, (list, tuple)) or not all(
        type(port) is int and 0 < port < 65536 for port in ports
    ):
        raise WireError(f"{where}.ports: must be a list of numbers from 1 to 65535")
    service: ServiceOptions = {
        "name": name,
        "image": as_text(f"{where}.image", raw["image"]),
        "ports": list(ports),
        "env": as_environment(f"{where}.env", raw.get("env") or {}),
        "health": as_text(f"{where}.health", raw["health"]) if raw.get("health") else None,
        "command": list(as_texts(f"{where}.command", raw.get("command") or ())),
    }
    if raw.get("shm_size") is not None:
        service["shm_size"] = as_limit_size(f"{where}.shm_size", raw["shm_size"])
    return service


def as_mapping(where: str, value: object) -> dict[str, object]:
    """Return a JSON object as a dictionary."""
    if not isinstance(value, dict):
        raise WireError(f"{where}: must be an object")
    return value


def as_restarts(where: str, value: object) -> int:
    """Return a number of restarts."""
    if type(value) is not int or not 0 <= value <= 100:
        raise WireError(f"{where}: must be an integer from 0 to 100")
    return value
