"""The developer's configuration: one frozen value from four sources, with the origin of each setting.

Command line > environment > ``[tool.remote-ci]`` in pyproject.toml > the user file
(`pytest_remote_ci.config.user_file`). An unknown key or a value of the wrong type is an error that names the key and
the file. The API key is rejected in a project's file, where it would be committed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pytest_remote_ci.config import user_file
from pytest_remote_ci.config.user_file import write as write_user_file
from pytest_remote_ci.config.values import CHECKS, KEY_VARIABLES, Place, Retries
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.wire import keep as keep_patterns
from pytest_remote_ci.wire import limits, protocol
from pytest_remote_ci.wire.checks import ServiceOptions
from pytest_remote_ci.workspace.project import project_root

__all__ = ["Config", "load", "project_root", "require_key", "write_user_file"]

TABLE: Final = "[tool.remote-ci]"
COMMAND_LINE: Final = "command line"

#: Variables that hold the address, in order of precedence. Empty ones are skipped, as are those for the key.
URL_VARIABLES: Final = ("REMOTE_CI_URL", "CI_SERVER_URL")

#: Variable with the name of a profile.
PROFILE_VARIABLE: Final = "REMOTE_CI_PROFILE"

_KEY_NAMES: Final = frozenset({"api-key", "api_key", "apikey", "key"})
_HOW_TO_GIVE_A_KEY: Final = "run `remote-ci login`, or set REMOTE_CI_API_KEY"


@dataclass(frozen=True)
class Config:
    """The developer's settings. None or empty: not set."""

    #: Address of the runner, without a trailing slash.
    url: str | None = None
    #: The API key; never shown.
    api_key: str | None = field(default=None, repr=False)
    #: Base image of the job.
    image: str | None = None
    #: The Pythons that run the tests, such as ``"3.12"``: each in a job of its own if there are several.
    python: tuple[str, ...] = ()
    #: Patterns of files that are sent even if git or `exclude` ignores them, or if they look like secrets.
    include: tuple[str, ...] = ()
    #: Patterns of files that are not sent.
    exclude: tuple[str, ...] = ()
    #: Requirements files, relative to the project.
    requirements: tuple[str, ...] = ()
    #: Extras of the project.
    extras: tuple[str, ...] = ()
    #: Dependency groups (PEP 735).
    groups: tuple[str, ...] = ()
    #: Whether to install the project itself; None means only if it is a package.
    install_project: bool | None = None
    #: Whether the environment has pip; None means yes.
    pip: bool | None = None
    #: Packages of the image's distribution to install.
    packages: tuple[str, ...] = ()
    #: Whether a job gets a git repository.
    git: bool = False
    #: Names of environment variables that are passed to the job.
    env: tuple[str, ...] = ()
    #: Names of environment variables whose values the runner encrypts, and masks in the output of a job of its own.
    secrets: tuple[str, ...] = ()
    #: Arguments of pytest that precede those of the command line.
    args: tuple[str, ...] = ()
    #: Seconds of testing after which the job is stopped.
    timeout: float | None = None
    #: Number of processors.
    cpus: float | None = None
    #: Bytes of memory.
    memory: int | None = None
    #: Bytes of /dev/shm, of /tmp and /var/tmp each, of the home folder, and of the largest file.
    shm_size: int | None = None
    tmp_size: int | None = None
    home_size: int | None = None
    file_size: int | None = None
    #: Files that one process may have open.
    open_files: int | None = None
    #: Most restarts of pytest after a test took it down.
    restarts: int | None = None
    #: Programs that run alongside the tests of a job of its own, as in `protocol.SubmitOptions`.
    services: tuple[ServiceOptions, ...] = ()
    #: How often a job is repeated, and after which exit codes.
    retries: Retries = field(default_factory=Retries)
    #: "egress" or "none".
    network: protocol.Network | None = None
    #: Patterns of files to keep as artifacts after the run.
    artifacts: tuple[str, ...] = ()
    #: Folder for the artifacts; in a file, relative to the project.
    artifacts_dir: str | None = None
    #: Patterns of files that the next job of the project gets; None means the defaults.
    keep: tuple[str, ...] | None = None
    #: Patterns of files of the project that are brought to their places if the tests change them.
    write_back: tuple[str, ...] = ()
    #: A display name.
    name: str | None = None
    #: Key, as spelt in files → origin of its value, in words.
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def origin(self, key: str) -> str:
        """Return the origin of the value of `key` (spelt as in files), in words; ``default`` if it is not set."""
        return self.origins.get(key, "default")

    def describe(self) -> Iterator[str]:
        """Yield one line for each value that is set, with its origin; the API key is masked."""
        for key, origin in self.origins.items():
            value = getattr(self, _attribute(key))
            text = repr(list(value) if isinstance(value, tuple) else value)
            shown = f"{value[:3]}…" if key == user_file.API_KEY else text
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
        extra: Mapping[str, object] = MappingProxyType({}),
    ) -> protocol.SubmitOptions:
        """Return the options of a submission of the project `root`, started in `cwd`.

        `args` are arguments for pytest, after the configured ones. `local_python` is requested if neither a Python
        nor an image is configured. Variables that are not set locally are omitted. A `cwd` outside of `root` means
        `root`.
        """
        below = cwd.relative_to(root).as_posix() if cwd.is_relative_to(root) else ""
        return protocol.SubmitOptions(
            args=(*self.args, *args),
            root=str(root) if os.name != "nt" else root.as_posix(),
            cwd="" if below == "." else below,
            module=module,
            python=self.python[0] if self.python else (None if self.image else local_python),
            image=self.image,
            requirements=self.requirements,
            extras=self.extras,
            groups=self.groups,
            install_project=self.install_project,
            pip=self.pip is not False,
            # What is secret must not travel as an ordinary variable, too.
            env={name: environ[name] for name in self.env if name in environ and name not in self.secrets},
            packages=self.packages,
            git=self.git,
            timeout=self.timeout,
            cpus=self.cpus,
            memory=self.memory,
            **{name: getattr(self, name) for name in limits.NAMES},
            network=self.network,
            services=self.services,
            restarts=protocol.SubmitOptions.restarts if self.restarts is None else self.restarts,
            artifacts=self.artifacts,
            keep=keep_patterns.DEFAULT if self.keep is None else self.keep,
            name=self.name,
            pytest_version=pytest_version,
            scm_version=scm_version,
            color=color,
            columns=max(1, min(columns, 10_000)),
            extra=dict(extra),
        )

    def secret_values(self, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the values of the secrets. Raises `ConfigError` with the names of those that are not set."""
        missing = sorted(set(self.secrets) - environ.keys())
        if missing:
            raise ConfigError(
                f"{self.origin('secrets')}: secrets: not set in the environment: {', '.join(missing)}"
            )
        return {name: environ[name] for name in self.secrets}


def load(
    project: Path,
    *,
    overrides: Mapping[str, object] = MappingProxyType({}),
    additions: Mapping[str, Sequence[str]] = MappingProxyType({}),
    spellings: Mapping[str, str] = MappingProxyType({}),
    profile: str | None = None,
    environ: Mapping[str, str] = os.environ,
    home: Path | None = None,
    platform: str = sys.platform,
) -> Config:
    """Return the configuration of the project in `project`. Raises `ConfigError`.

    `overrides` is the command line: keys as in files (with ``-`` or ``_``), values as text or typed; None means not
    given. `additions` are the command line's, too: they follow the configured items of these lists. `spellings`: key →
    the option that sets it, for error messages. `profile`: the name of a table ``[profiles.NAME]`` in the user file,
    whose values precede all others but the command line's; without it, ``REMOTE_CI_PROFILE`` names one.
    """
    home = user_file.home_folder() if home is None else home
    user = user_file.path(environ, home, platform)
    values_of_user, chosen = user_file.with_profile(
        user, user_file.read(user), profile or environ.get(PROFILE_VARIABLE, "").strip() or None
    )
    project_source, user_source = (
        _project_table(project / "pyproject.toml"),
        _Source(str(user), values_of_user),
    )
    sources = (
        _command_line(overrides),
        *([] if chosen is None else [_Source(f"{user} [profiles.{chosen[0]}]", chosen[1])]),
        *_environment(environ),
        project_source,
        user_source,
        _Source(str(user_file.legacy_path(home)), user_file.read_legacy(home)),
    )
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for source in sources:
        for key, raw in source.values.items():
            check = CHECKS.get(key)
            if check is None:
                raise ConfigError(_unknown_key(key, source))
            is_typed = source.name == COMMAND_LINE
            value = check(Place(key, source.name, is_typed, spellings.get(key) if is_typed else None), raw)
            if key not in origins:
                values[_attribute(key)], origins[key] = value, source.name
    for key, more in additions.items():
        added = CHECKS[key](Place(key, COMMAND_LINE, True, spellings.get(key)), tuple(more))
        before = values.get(_attribute(key))
        values[_attribute(key)] = tuple(dict.fromkeys((*_items(before), *_items(added))))
        origins[key] = COMMAND_LINE
    _keep_key_for_its_runner(values, origins, project_source, user_source)
    order = {key: index for index, key in enumerate(CHECKS)}
    in_order = MappingProxyType(dict(sorted(origins.items(), key=lambda item: order[item[0]])))
    # `CHECKS` gives each value the type of its field.
    return Config(**values, origins=in_order)  # type: ignore[arg-type]


def _items(value: object) -> tuple[object, ...]:
    """Return the items of a setting with several values; () if it is not set."""
    return value if isinstance(value, tuple) else ()


def _keep_key_for_its_runner(
    values: Mapping[str, object], origins: Mapping[str, str], project: _Source, user: _Source
) -> None:
    """Refuse to send the key stored for one runner to another runner that the project names.

    Otherwise, a developer who clones a project and runs its tests could send a key to any address that its files
    name.
    """
    beside = str(user.values.get("url") or "").rstrip("/")
    if origins.get(user_file.API_KEY) != user.name or origins.get("url") != project.name or not beside:
        return
    if str(values["url"]).rstrip("/") != beside:
        raise ConfigError(
            f"{project.name} sets the runner {values['url']}, but the key in {user.name} is for {beside}: "
            f"if you trust this runner, run `remote-ci login --url {values['url']}` or set REMOTE_CI_API_KEY"
        )


def require_key(config: Config) -> str:
    """Return the API key. Raises `ConfigError` with instructions if none is configured."""
    if config.api_key is None:
        raise ConfigError(f"no API key for the runner: {_HOW_TO_GIVE_A_KEY}")
    return config.api_key


@dataclass(frozen=True)
class _Source:
    name: str
    values: Mapping[str, object]


def _attribute(key: str) -> str:
    return key.replace("-", "_")


def _command_line(overrides: Mapping[str, object]) -> _Source:
    return _Source(
        COMMAND_LINE, {key.replace("_", "-"): value for key, value in overrides.items() if value is not None}
    )


def _environment(environ: Mapping[str, str]) -> Iterator[_Source]:
    for key, names in (("url", URL_VARIABLES), (user_file.API_KEY, KEY_VARIABLES)):
        for name in names:
            if name == "CI_SERVER_URL" and environ.get("GITLAB_CI"):
                continue  # GitLab sets this variable in its own jobs, to its own address
            if environ.get(name, "").strip():
                yield _Source(f"environment variable {name}", {key: environ[name].strip()})


def _project_table(file: Path) -> _Source:
    name = f"{file} {TABLE}"
    tool = user_file.read_toml(file).get("tool", {})
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

    known = [name for name in CHECKS if name != user_file.API_KEY or TABLE not in source.name]
    nearest = difflib.get_close_matches(key.lower().replace("_", "-"), known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"valid keys are {', '.join(known)}"
    return f"{source.name}: unknown key {key!r}; {hint}"
