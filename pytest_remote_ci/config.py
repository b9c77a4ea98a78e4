"""The developer's configuration: one frozen value out of four sources, each value knowing where it came from.

Command line > environment > ``[tool.remote-ci]`` in pyproject.toml > the user file
(`pytest_remote_ci.userfile`). A key that nobody knows, or a value of the wrong type, is an error that names
the key and the file. The API key never lies in a project's file, where it would be committed.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from pytest_remote_ci import userfile, wire
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.project import project_root
from pytest_remote_ci.userfile import write as write_user_file

__all__ = ["Config", "load", "project_root", "require_key", "write_user_file"]

TABLE: Final = "[tool.remote-ci]"
COMMAND_LINE: Final = "command line"

#: Variables that hold the address and the key, in the order in which they are asked; empty ones fall through.
URL_VARIABLES: Final = ("REMOTE_CI_URL", "CI_SERVER_URL")
KEY_VARIABLES: Final = ("REMOTE_CI_API_KEY", "CI_API_KEY")

_KEY_NAMES: Final = frozenset({"api-key", "api_key", "apikey", "key"})
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PYTHON: Final = re.compile(r"3\.\d{1,2}\Z")
_HOW_TO_GIVE_A_KEY: Final = "run `remote-ci login`, or set REMOTE_CI_API_KEY"


@dataclass(frozen=True)
class Config:
    """What the developer configured; None and empty mean: nobody said anything."""

    #: Address of the runner, without a slash at its end.
    url: str | None = None
    #: The key; never shown.
    api_key: str | None = field(default=None, repr=False)
    #: Base image of the job.
    image: str | None = None
    #: ``"3.12"``: which Python runs the tests.
    python: str | None = None
    #: Patterns of files that travel although git ignores or `exclude` names them, or they look like secrets.
    include: tuple[str, ...] = ()
    #: Patterns of files that stay here.
    exclude: tuple[str, ...] = ()
    #: Requirements files, relative to the project.
    requirements: tuple[str, ...] = ()
    #: Extras of the project.
    extras: tuple[str, ...] = ()
    #: Dependency groups (PEP 735).
    groups: tuple[str, ...] = ()
    #: Whether the project itself is installed; None: when it is a package.
    install_project: bool | None = None
    #: Names of environment variables that are passed through.
    env: tuple[str, ...] = ()
    #: Arguments of pytest that come before those of the command line.
    args: tuple[str, ...] = ()
    #: Seconds of testing after which the job is stopped.
    timeout: float | None = None
    #: Processors.
    cpus: float | None = None
    #: Bytes.
    memory: int | None = None
    #: How often pytest may be started again after a test took it down.
    restarts: int | None = None
    #: "egress" or "none".
    network: str | None = None
    #: Patterns of files to keep after the run.
    artifacts: tuple[str, ...] = ()
    #: A name for people.
    name: str | None = None
    #: Key, as it is spelt in files → where its value came from, in words.
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def origin(self, key: str) -> str:
        """Where the value of `key` (spelt as in files) came from, in words; ``default`` when nobody gave one."""
        return self.origins.get(key, "default")

    def describe(self) -> Iterator[str]:
        """One line per value that somebody gave, with where it came from; the key is masked."""
        for key, origin in self.origins.items():
            value = getattr(self, _attribute(key))
            text = repr(list(value) if isinstance(value, tuple) else value)
            shown = f"{value[:3]}…" if key == userfile.API_KEY else text
            yield f"{key} = {shown}  ({origin})"

    def submit_options(
        self,
        *,
        root: Path,
        cwd: Path,
        args: Sequence[str] = (),
        module: bool = True,
        environ: Mapping[str, str] = os.environ,
        local_python: str | None = f"{sys.version_info[0]}.{sys.version_info[1]}",
        pytest_version: str | None = None,
        scm_version: str | None = None,
        color: bool = False,
        columns: int = 80,
        extra: Mapping[str, Any] = MappingProxyType({}),
    ) -> wire.SubmitOptions:
        """What a submission of the project `root`, started in `cwd`, says beside its files.

        `args` are the arguments for pytest and follow the configured ones. `local_python` is asked for when neither a
        Python nor an image is configured. Variables that are not set here do not travel. A foreign `cwd` means `root`.
        """
        below = cwd.relative_to(root).as_posix() if cwd.is_relative_to(root) else ""
        return wire.SubmitOptions(
            args=(*self.args, *args),
            root=str(root) if os.name != "nt" else root.as_posix(),
            cwd="" if below == "." else below,
            module=module,
            python=self.python or (None if self.image else local_python),
            image=self.image,
            requirements=self.requirements,
            extras=self.extras,
            groups=self.groups,
            install_project=self.install_project,
            env={name: environ[name] for name in self.env if name in environ},
            timeout=self.timeout,
            cpus=self.cpus,
            memory=self.memory,
            network=self.network,
            restarts=wire.SubmitOptions.restarts if self.restarts is None else self.restarts,
            artifacts=self.artifacts,
            name=self.name,
            pytest_version=pytest_version,
            scm_version=scm_version,
            color=color,
            columns=max(1, min(columns, 10_000)),
            extra=dict(extra),
        )


def load(
    project: Path,
    *,
    overrides: Mapping[str, object] = MappingProxyType({}),
    environ: Mapping[str, str] = os.environ,
    home: Path | None = None,
    platform: str = sys.platform,
) -> Config:
    """The configuration of the project in `project`; raises `ConfigError`.

    `overrides` is the command line: keys as in files (``-`` or ``_``), values as text or typed; None: not given.
    """
    home = Path.home() if home is None else home
    user = userfile.path(environ, home, platform)
    sources = (
        _command_line(overrides),
        *_environment(environ),
        _project_table(project / "pyproject.toml"),
        _Source(str(user), userfile.read(user)),
        _Source(str(userfile.legacy_path(home)), userfile.read_legacy(home)),
    )
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source in sources:
        for key, raw in source.values.items():
            check = _CHECKS.get(key)
            if check is None:
                raise ConfigError(_unknown_key(key, source))
            value = check(_Place(key, source.name, source.name == COMMAND_LINE), raw)
            if key not in origins:
                values[_attribute(key)], origins[key] = value, source.name
    _keep_key_for_its_runner(values, origins, sources)
    order = {key: index for index, key in enumerate(_CHECKS)}
    return Config(
        **values, origins=MappingProxyType(dict(sorted(origins.items(), key=lambda item: order[item[0]])))
    )


def _keep_key_for_its_runner(
    values: Mapping[str, Any], origins: Mapping[str, str], sources: Sequence[_Source]
) -> None:
    """Refuse to send a key that lies beside one address to another that the project names.

    Whoever clones a project and runs its tests must not hand a key to whatever address its files name.
    """
    project, user = sources[-3], sources[-2]
    beside = str(user.values.get("url") or "").rstrip("/")
    if origins.get(userfile.API_KEY) != user.name or origins.get("url") != project.name or not beside:
        return
    if values["url"].rstrip("/") != beside:
        raise ConfigError(
            f"{project.name} names the runner {values['url']}, but the key in {user.name} is for {beside}: "
            f"if you trust it, run `remote-ci login --url {values['url']}` or set REMOTE_CI_API_KEY"
        )


def require_key(config: Config) -> str:
    """The key; raises `ConfigError` that says how to give one."""
    if config.api_key is None:
        raise ConfigError(f"no API key for the runner: {_HOW_TO_GIVE_A_KEY}")
    return config.api_key


@dataclass(frozen=True)
class _Source:
    name: str
    values: Mapping[str, object]


@dataclass(frozen=True)
class _Place:
    """Where a value stands, for the text of an error."""

    key: str
    source: str
    #: Values of the command line are text.
    is_text: bool

    def error(self, must: str, value: object) -> ConfigError:
        return ConfigError(f"{self.source}: {self.key} must be {must}, not {value!r}")


def _attribute(key: str) -> str:
    return key.replace("-", "_")


def _command_line(overrides: Mapping[str, object]) -> _Source:
    return _Source(
        COMMAND_LINE, {key.replace("_", "-"): value for key, value in overrides.items() if value is not None}
    )


def _environment(environ: Mapping[str, str]) -> Iterator[_Source]:
    for key, names in (("url", URL_VARIABLES), (userfile.API_KEY, KEY_VARIABLES)):
        for name in names:
            if name == "CI_SERVER_URL" and environ.get("GITLAB_CI"):
                continue  # GitLab gives its jobs a variable of that name: its own address
            if environ.get(name, "").strip():
                yield _Source(f"environment variable {name}", {key: environ[name].strip()})


def _project_table(file: Path) -> _Source:
    name = f"{file} {TABLE}"
    tool = userfile.read_toml(file).get("tool", {})
    table = tool.get("remote-ci", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise ConfigError(f"{name} must be a table, not {table!r}")
    for key in _KEY_NAMES.intersection(table):
        raise ConfigError(
            f"{name}: {key} must not be here, because it would be committed: revoke that key if it already was, "
            f"remove the line, then {_HOW_TO_GIVE_A_KEY}"
        )
    return _Source(name, {key: table[key] for key in table if key != "pipelines"})


def _unknown_key(key: str, source: _Source) -> str:
    import difflib

    known = [name for name in _CHECKS if name != userfile.API_KEY or TABLE not in source.name]
    nearest = difflib.get_close_matches(key.lower().replace("_", "-"), known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"valid keys are {', '.join(known)}"
    return f"{source.name}: unknown key {key!r}; {hint}"


def _text(place: _Place, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value or len(value) > 4096:
        raise place.error("text", value)
    return value.strip()


def _url(place: _Place, value: object) -> str:
    text = _text(place, value)
    try:
        parts = urlsplit(text)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or parts.query or parts.fragment:
        raise place.error("an address such as https://runner.example.com", value)
    return text.rstrip("/")


def _api_key(place: _Place, value: object) -> str:
    # The value itself is never repeated in a message.
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value.strip()):
        raise ConfigError(f"{place.source}: {place.key} must be one word of printable ASCII characters")
    return value.strip()


def _python(place: _Place, value: object) -> str:
    if not isinstance(value, str) or not _PYTHON.match(value):
        raise place.error('a Python version in quotes, such as "3.12"', value)
    return value


def _texts(place: _Place, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(item, str) and "\0" not in item for item in value
    ):
        raise place.error("a list of texts", value)
    return tuple(value)


def _patterns(place: _Place, value: object) -> tuple[str, ...]:
    texts = _texts(place, value)
    if any(not text.strip() for text in texts):
        raise place.error("a list of patterns, none of them empty", value)
    if any(".." in text.split("/") for text in texts):
        raise place.error("a list of patterns for what lies in the project, without '..'", value)
    return texts


def _relatives(place: _Place, value: object) -> tuple[str, ...]:
    texts = _texts(place, value)
    for text in texts:
        parts = text.replace("\\", "/").split("/")
        if not text or text.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise place.error("a list of paths below the project", value)
    return texts


def _names(place: _Place, value: object) -> tuple[str, ...]:
    texts = _texts(place, value)
    for text in texts:
        if not _ENV_NAME.match(text):
            raise place.error("a list of names of environment variables", value)
        if text in KEY_VARIABLES:
            raise ConfigError(
                f"{place.source}: {place.key} must not pass {text} through: tests could read the key"
            )
    return texts


def _flag(place: _Place, value: object) -> bool:
    if place.is_text and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise place.error("true or false", value)
    return value


def _positive(place: _Place, value: object) -> float:
    number = value
    if place.is_text and isinstance(value, str):
        with contextlib.suppress(ValueError):
            number = float(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 < number < 1e9:
        raise place.error("a number above 0", value)
    return float(number)


def _size(place: _Place, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise place.error('a size such as "2g"', value)
    size = 0
    with contextlib.suppress(wire.WireError):
        size = wire.parse_size(int(value) if isinstance(value, str) and value.isdecimal() else value)
    if size <= 0:
        raise place.error('a size such as "2g"', value)
    return size


def _restarts(place: _Place, value: object) -> int:
    if type(value) is not int or not 0 <= value <= 100:
        raise place.error("a whole number from 0 to 100", value)
    return value


def _network(place: _Place, value: object) -> str:
    if value not in ("egress", "none"):
        raise place.error('"egress" or "none"', value)
    return str(value)


_CHECKS: Final[Mapping[str, Callable[[_Place, object], Any]]] = {
    "url": _url,
    userfile.API_KEY: _api_key,
    "image": _text,
    "python": _python,
    "include": _patterns,
    "exclude": _patterns,
    "requirements": _relatives,
    "extras": _texts,
    "groups": _texts,
    "install-project": _flag,
    "env": _names,
    "args": _texts,
    "timeout": _positive,
    "cpus": _positive,
    "memory": _size,
    "network": _network,
    "restarts": _restarts,
    "artifacts": _patterns,
    "name": _text,
}
