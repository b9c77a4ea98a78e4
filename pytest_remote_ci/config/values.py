"""Checks of configuration values, by key. A wrong value is an error that names the key and its source."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pytest_remote_ci.config import user_file
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.wire import (
    checks,
    formats,
    globs,
    job_variables,
    keep,
    limits,
    protocol,
    system_packages,
)
from pytest_remote_ci.wire.checks import ServiceOptions

#: Variables that hold the API key, in order of precedence.
KEY_VARIABLES: Final = ("REMOTE_CI_API_KEY", "CI_API_KEY")

_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_MOST_PYTHONS: Final = 20
_PYTHON: Final = re.compile(r"3\.\d{1,2}\Z")


@dataclass(frozen=True)
class Place:
    """The key and source of a value, for error messages."""

    key: str
    source: str
    #: Whether the value is from the command line, and therefore text.
    is_text: bool
    #: The option that was typed, such as ``--remote-ci-timeout``; None if the value is from elsewhere.
    option: str | None = None

    @property
    def name(self) -> str:
        """The option that was typed, else source and key."""
        return self.option or f"{self.source}: {self.key}"

    def error(self, must: str, value: object) -> ConfigError:
        """Return the error for a value that is not what it must be."""
        return ConfigError(f"{self.name} must be {must}, not {value!r}")


@dataclass(frozen=True)
class Retries:
    """How often a job is repeated that the runner could not complete, or that ended with one of the exit codes."""

    count: int = 0
    exit_codes: tuple[int, ...] = ()

    def __repr__(self) -> str:
        """Return the value as files have it."""
        codes = ", ".join(map(str, self.exit_codes))
        return f"{{ count = {self.count}, exit-codes = [{codes}] }}" if codes else str(self.count)


def _text(place: Place, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value or len(value) > 4096:
        raise place.error("text", value)
    return value.strip()


def _url(place: Place, value: object) -> str:
    text = _text(place, value)
    try:
        parts = urlsplit(text)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or parts.query or parts.fragment:
        raise place.error("an address such as https://runner.example.com", value)
    return text.rstrip("/")


def _api_key(place: Place, value: object) -> str:
    # The value must never appear in a message.
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value.strip()):
        raise ConfigError(f"{place.name} must be one word of printable ASCII characters")
    return value.strip()


def _pythons(place: Place, value: object) -> tuple[str, ...]:
    """Return versions from one or a list; on the command line, they are separated by commas."""
    must = 'a Python version in quotes, such as "3.12", or a list of them'
    given: object = value
    if isinstance(value, str):
        given = [part.strip() for part in value.split(",")] if place.is_text else [value]
    if not isinstance(given, (list, tuple)) or not 0 < len(given) <= _MOST_PYTHONS:
        raise place.error(must, value)
    if not all(isinstance(version, str) and _PYTHON.match(version) for version in given):
        raise place.error(must, value)
    return tuple(dict.fromkeys(given))


def _retries(place: Place, value: object) -> Retries:
    """Return retries from a number or a table; on the command line, codes follow a colon: ``2:1,137``."""
    must = (
        "a number from 0 to 10, with exit codes such as 2:1,137"
        if place.is_text
        else "a number from 0 to 10, or a table such as { count = 2, exit-codes = [1] }"
    )
    count: object = value
    codes: object = ()
    if place.is_text and isinstance(value, str):
        number, colon, listed = value.partition(":")
        parts = [number, *(listed.split(",") if colon else ())]
        if not all(re.fullmatch(r"[0-9]{1,3}", part.strip()) for part in parts):
            raise place.error(must, value)
        count, codes = int(parts[0]), [int(part) for part in parts[1:]]
    elif isinstance(value, Mapping):
        if not value.keys() <= {"count", "exit-codes"}:
            raise place.error(must, value)
        count, codes = value.get("count", 1), value.get("exit-codes", ())
    if type(count) is not int or not 0 <= count <= 10:
        raise place.error(must, value)
    if not isinstance(codes, (list, tuple)) or not all(
        type(code) is int and 1 <= code <= 255 for code in codes
    ):
        raise place.error(must, value)
    return Retries(count, tuple(dict.fromkeys(codes)))


def _texts(place: Place, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(item, str) and "\0" not in item for item in value
    ):
        raise place.error("a list of strings", value)
    return tuple(value)


def _patterns(place: Place, value: object) -> tuple[str, ...]:
    texts = _texts(place, value)
    if any(not text.strip() for text in texts):
        raise place.error("a list of non-empty patterns", value)
    if any(".." in text.split("/") for text in texts):
        raise place.error("a list of patterns inside the project, without '..'", value)
    return texts


def _without_problems(
    where: str, texts: tuple[str, ...], problem_of: Callable[[str], str | None]
) -> tuple[str, ...]:
    for text in texts:
        problem = problem_of(text)
        if problem is not None:
            raise ConfigError(f"{where}: {text!r} {problem}")
    return texts


def _globs(place: Place, value: object) -> tuple[str, ...]:
    texts = _texts(place, value)
    return _without_problems(place.name, texts, globs.problem)


def _keep(place: Place, value: object) -> tuple[str, ...]:
    texts = _texts(place, value)
    if len(texts) > keep.MAX_PATTERNS:
        raise place.error(f"a list of at most {keep.MAX_PATTERNS} patterns", value)
    return _without_problems(f"{place.source}: {place.key}", texts, keep.problem)


def _packages(place: Place, value: object) -> tuple[str, ...]:
    texts = _texts(place, value)
    if len(texts) > system_packages.MAX_PACKAGES:
        raise place.error(f"a list of at most {system_packages.MAX_PACKAGES} packages", value)
    return _without_problems(place.name, texts, system_packages.problem)


def _folder(place: Place, value: object) -> str:
    """Return a folder. A file, which comes with a project, may only name a folder within the project."""
    text = _text(place, value)
    if not place.is_text and (globs.problem(text) is not None or text.startswith("~")):
        raise place.error("a folder of the project", value)
    try:
        Path(text).expanduser()
    except RuntimeError:
        raise place.error("a folder (this home folder is unknown)", value) from None
    return text


def _relatives(place: Place, value: object) -> tuple[str, ...]:
    texts = _texts(place, value)
    for text in texts:
        parts = text.replace("\\", "/").split("/")
        if not text or text.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise place.error("a list of paths below the project", value)
    return texts


def _names(place: Place, value: object) -> tuple[str, ...]:
    texts = _texts(place, value)
    for text in texts:
        if not _ENV_NAME.match(text):
            raise place.error("a list of names of environment variables", value)
        if text in KEY_VARIABLES:
            raise ConfigError(f"{place.name} must not contain {text}: tests could read the key")
        reason = job_variables.refusal(text)
        if reason is not None:
            raise ConfigError(f"{place.name}: {reason}")
    return texts


def _flag(place: Place, value: object) -> bool:
    if place.is_text and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise place.error("true or false", value)
    return value


def _positive(place: Place, value: object) -> float:
    number = value
    if place.is_text and isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            number = None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 < number < 1e9:
        raise place.error("a number above 0", value)
    return float(number)


def _seconds(place: Place, value: object) -> float:
    number = formats.parse_duration(value)
    if number is None and place.is_text and isinstance(value, str):
        with contextlib.suppress(ValueError):
            number = float(value)
    elif not isinstance(value, (str, bool)) and isinstance(value, (int, float)):
        number = float(value)
    if number is None or not 0 < number < 1e9:
        raise place.error('seconds above 0, or a time such as "10m" or "1h 30m"', value)
    return number


def _size(place: Place, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise place.error('a size such as "2g"', value)
    try:
        size = protocol.parse_size(int(value) if isinstance(value, str) and value.isdecimal() else value)
    except protocol.WireError:
        size = 0
    if size <= 0:
        raise place.error('a size such as "2g"', value)
    return size


def _limit_size(place: Place, value: object) -> int:
    try:
        size = _size(place, value)
    except ConfigError:
        size = 0
    if not limits.is_size(size):
        raise place.error(limits.SIZE_WORDS, value)
    return size


def _open_files(place: Place, value: object) -> int:
    if type(value) is not int or not limits.is_open_files(value):
        raise place.error(limits.FILES_WORDS, value)
    return value


def _services(place: Place, value: object) -> tuple[ServiceOptions, ...]:
    """Return services from a table of them by name, or from a list, as in pipelines."""
    if isinstance(value, dict):
        named = [(f"services.{name}", name, item) for name, item in value.items()]
    elif isinstance(value, (list, tuple)):
        named = [(f"services[{index}]", None, item) for index, item in enumerate(value)]
    else:
        raise place.error("a table of services by name, or a list of them", value)
    try:
        found = [
            checks.as_service(f"{place.source}: {where}", _service(f"{place.source}: {where}", name, item))
            for where, name, item in named
        ]
        return checks.as_services(place.name, found)
    except checks.WireError as error:
        raise ConfigError(str(error)) from error


def _service(where: str, name: str | None, item: object) -> object:
    """Return a service with its name, and with its variables and arguments as texts; keys as they are sent."""
    if isinstance(item, str):
        item = {"image": item}
    if not isinstance(item, dict):
        return item
    made = {str(key).replace("-", "_"): content for key, content in item.items()}
    for key in item:
        if str(key).replace("-", "_") not in checks.SERVICE_KEYS:
            valid = ", ".join(map(limits.key, checks.SERVICE_KEYS))
            raise checks.WireError(f"{where}: unknown key {key!r}; valid keys are {valid}")
    if "shm_size" in made:
        made["shm_size"] = checks.as_limit_size(f"{where}.shm-size", made["shm_size"])
    if isinstance(made.get("env"), dict):
        made["env"] = {variable: _word(content) for variable, content in made["env"].items()}
    if isinstance(made.get("command"), list):
        made["command"] = [_word(argument) for argument in made["command"]]
    if name is not None:
        made["name"] = name
    elif "name" not in made and isinstance(made.get("image"), str):
        made["name"] = checks.service_name(made["image"])
    return made


def _word(value: object) -> object:
    """Return a scalar as it is written in the file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, user_file.SpelledFloat):
        return value.text
    return str(value) if isinstance(value, int) else value


def _restarts(place: Place, value: object) -> int:
    if type(value) is not int or not 0 <= value <= 100:
        raise place.error("a whole number from 0 to 100", value)
    return value


def _network(place: Place, value: object) -> str:
    if value not in ("egress", "none"):
        raise place.error('"egress" or "none"', value)
    return str(value)


CHECKS: Final[Mapping[str, Callable[[Place, object], object]]] = {
    "url": _url,
    user_file.API_KEY: _api_key,
    "image": _text,
    "python": _pythons,
    "include": _patterns,
    "exclude": _patterns,
    "requirements": _relatives,
    "extras": _texts,
    "groups": _texts,
    "install-project": _flag,
    "pip": _flag,
    "packages": _packages,
    "git": _flag,
    "env": _names,
    "secrets": _names,
    "args": _texts,
    "timeout": _seconds,
    "cpus": _positive,
    "memory": _size,
    **{limits.key(name): _limit_size for name in limits.SIZES},
    "open-files": _open_files,
    "network": _network,
    "services": _services,
    "restarts": _restarts,
    "retries": _retries,
    "artifacts": _globs,
    "artifacts-dir": _folder,
    "keep": _keep,
    "write-back": _globs,
    "name": _text,
}
