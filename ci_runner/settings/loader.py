"""Load `Settings` from the command line, the environment and a TOML file, by the metadata of its fields.

Every field of every group is one `Option` with a flag, environment variables and a TOML key. This module parses and
checks them all alike; an error is one line with the problem and the origin of the value. `ci_runner.cli` decides
which programs use which groups.
"""

from __future__ import annotations

import argparse
import difflib
import math
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Final, Literal, Union, cast, get_args, get_origin, get_type_hints

from ci_runner.errors import SettingsError
from ci_runner.settings.groups import SettingInfo, Settings, StorageSettings, default_data_dir
from pytest_remote_ci.wire.protocol import WireError, parse_size

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Read if neither ``--config`` nor ``CI_RUNNER_CONFIG`` is given: this file in the data directory, else the next.
FILE_NAME: Final = "ci-runner.toml"
SYSTEM_FILE: Final = Path("/etc/ci-runner/config.toml")

#: Variables with our prefix that are not settings.
_OTHER_VARIABLES: Final = frozenset(
    {
        "CI_RUNNER_CONFIG",
        "CI_RUNNER_ALLOW_FAILPOINTS",
        "CI_RUNNER_FAILPOINTS",
        "CI_RUNNER_FAILPOINT_TRACE",
        "CI_RUNNER_TEST_IMAGE",
    }
)
_DATA_DIR: Final = "storage.data_dir"
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True)
class Option:
    """One setting, as described by its field's metadata."""

    group: str
    name: str
    #: bool, int, float, str, Path or tuple.
    kind: type
    #: Whether "" or "none" (in TOML: a missing key) stands for None.
    optional: bool
    default: object
    info: SettingInfo

    @property
    def id(self) -> str:
        """``group.name``, the setting's key in layers of values."""
        return f"{self.group}.{self.name}"

    @property
    def key(self) -> str:
        """The TOML key in the table of its group."""
        return self.name.replace("_", "-")

    @property
    def flag(self) -> str:
        """The flag on the command line."""
        return "--" + str(self.info.get("flag", self.key))

    @property
    def env(self) -> tuple[str, ...]:
        """Environment variables; the first one that is set counts."""
        return self.info["env"]


@dataclass(frozen=True)
class Loaded:
    """The settings, and the origins of their values."""

    settings: Settings
    #: Option id → origin of its value (a flag, a variable, a file), for all but default values.
    origins: Mapping[str, str] = field(default_factory=dict)
    #: One line each, for the log.
    warnings: tuple[str, ...] = ()
    #: The TOML file that was read.
    file: Path | None = None

    def describe(self) -> list[str]:
        """Return one line per setting with another value than the default, without secrets, for the log at start."""
        lines = []
        for option in options():
            if option.id in self.origins:
                value = getattr(getattr(self.settings, option.group), option.name)
                shown = "(set)" if option.info.get("secret") and value else value
                lines.append(f"{option.id} = {shown} ({self.origins[option.id]})")
        return lines


@cache
def options() -> tuple[Option, ...]:
    """Return all settings, in the order of the groups."""
    found = []
    for group in fields(Settings):
        assert group.default_factory is not MISSING
        hints = get_type_hints(group.default_factory)
        for item in fields(group.default_factory()):
            default = item.default_factory() if item.default_factory is not MISSING else item.default
            kind, optional = _kind(hints[item.name])
            info = cast(SettingInfo, item.metadata)
            found.append(Option(group.name, item.name, kind, optional, default, info))
    return tuple(found)


def _kind(hint: object) -> tuple[type, bool]:
    """Return the plain type of an annotation, and whether None is allowed."""
    if get_origin(hint) in (Union, types.UnionType):
        rest = [part for part in get_args(hint) if part is not type(None)]
        return _kind(rest[0])[0], True
    if get_origin(hint) is Literal:
        return str, False
    kind = get_origin(hint) or hint
    assert isinstance(kind, type)
    return kind, False


def add_arguments(parser: argparse._ActionsContainer, groups: Iterable[str]) -> None:
    """Add the flags of these groups to `parser`; the namespace has only flags that are given (dest: option id)."""
    wanted = frozenset(groups)
    for option in options():
        if option.group not in wanted:
            continue
        text = str(option.info["help"]).replace("%", "%%") + f" [{default_text(option)}]".replace("%", "%%")
        if option.kind is bool:
            parser.add_argument(
                option.flag,
                action=argparse.BooleanOptionalAction,
                dest=option.id,
                default=argparse.SUPPRESS,
                help=text,
            )
        else:
            parser.add_argument(
                option.flag, dest=option.id, default=argparse.SUPPRESS, metavar=_metavar(option), help=text
            )


def _metavar(option: Option) -> str:
    if "choices" in option.info:
        return "|".join(option.info["choices"])
    if option.info.get("size"):
        return "SIZE"
    return {int: "N", float: "N", Path: "PATH", tuple: "A,B,…"}.get(option.kind, "TEXT")


def default_text(option: Option) -> str:
    """Return the default in words, the same on every machine."""
    if "shown" in option.info:
        return str(option.info["shown"])
    if option.default is None or option.default == ():
        return "none"
    if option.info.get("size") and isinstance(option.default, int):
        return size_text(option.default)
    if isinstance(option.default, bool):
        return "yes" if option.default else "no"
    if isinstance(option.default, float):
        return f"{option.default:g}"
    return str(option.default)


def size_text(size: int) -> str:
    """Return ``2g`` for 2147483648: the largest unit without a remainder."""
    for unit, shift in (("g", 30), ("m", 20), ("k", 10)):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return str(size)


def parse(option: Option, raw: object, where: str) -> object:
    """Return the checked value of `raw` (text, or a TOML value).

    Raises `SettingsError` with a text that starts with `where`.
    """
    if option.optional and isinstance(raw, str) and raw.strip().lower() in ("", "none"):
        return None
    value = _convert(option, raw, where)
    if "choices" in option.info and value not in option.info["choices"]:
        upper = str(value).upper()
        if upper not in option.info["choices"]:
            raise SettingsError(f"{where}: must be one of {', '.join(option.info['choices'])}, not {raw!r}")
        value = upper
    if option.kind in (int, float) and isinstance(value, (int, float)):
        _check_range(option, value, raw, where)
    return value


def _convert(option: Option, raw: object, where: str) -> object:
    """Return `raw` as the option's type, without checking its range."""
    kind = option.kind
    if kind is bool:
        return _boolean(raw, where)
    if isinstance(raw, bool):
        raise SettingsError(f"{where}: must be {_noun(option)}, not {raw!r}")
    if kind is tuple:
        parts = raw.split(",") if isinstance(raw, str) else raw
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise SettingsError(f"{where}: must be a list of strings, not {raw!r}")
        try:
            check = option.info.get("item", str)
            return tuple(check(part.strip()) for part in parts if part.strip())
        except ValueError as error:
            raise SettingsError(f"{where}: {error}") from error
    if kind in (int, float):
        try:
            if option.info.get("size"):
                return parse_size(raw if isinstance(raw, int) else str(raw))
            return kind(raw.strip() if isinstance(raw, str) else _exact(kind, raw))
        except (ValueError, TypeError, WireError, OverflowError) as error:
            raise SettingsError(f"{where}: must be {_noun(option)}, not {raw!r}") from error
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise SettingsError(f"{where}: must be text, not {raw!r}")
    return _path(raw, where) if kind is Path else raw


def _path(raw: str, where: str) -> Path:
    """Return an absolute path; ``~`` may begin it."""
    try:
        return Path(raw).expanduser().absolute()
    except RuntimeError:
        raise SettingsError(f"{where}: unknown home folder in {raw!r}") from None


def _exact(kind: type, raw: object) -> float:
    """Return a TOML number that is exact as `kind`; raises TypeError."""
    if not isinstance(raw, (int, float)) or (kind is int and not isinstance(raw, int)):
        raise TypeError(raw)
    return raw


def _boolean(raw: object, where: str) -> bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.strip().lower() in _TRUE | _FALSE:
        return raw.strip().lower() in _TRUE
    raise SettingsError(f"{where}: must be true or false, not {raw!r}")


def _noun(option: Option) -> str:
    if option.info.get("size"):
        return "a size such as 512m or 2g"
    return {int: "a whole number", float: "a number"}.get(option.kind, "text")


def _check_range(option: Option, value: float, raw: object, where: str) -> None:
    info = option.info
    if not math.isfinite(value):
        raise SettingsError(f"{where}: must be a finite number, not {raw!r}")
    if "above" in info and value <= info["above"]:
        raise SettingsError(f"{where}: must be above {info['above']}, not {raw!r}")
    if "minimum" in info and value < info["minimum"]:
        low = size_text(int(info["minimum"])) if info.get("size") else info["minimum"]
        raise SettingsError(f"{where}: must be at least {low}, not {raw!r}")
    if "maximum" in info and value > info["maximum"]:
        raise SettingsError(f"{where}: must be at most {info['maximum']}, not {raw!r}")


def load(
    arguments: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    config: Path | None = None,
    defaults: Mapping[str, tuple[object, str]] | None = None,
    system_file: Path | None = SYSTEM_FILE,
) -> Loaded:
    """Read all layers. `arguments`: option id → value, as `add_arguments` leaves it (other keys are ignored).

    `config` is the file given on the command line. `defaults` (option id → value and its origin) are overridden by
    the file. Raises `SettingsError`: one line with the key, its origin and the nearest valid key.
    """
    file = _config_file(config, arguments, environ, defaults or {}, system_file)
    layers: dict[str, tuple[object, str, str]] = {}
    for name, (value, origin) in (defaults or {}).items():
        layers[name] = (value, origin, origin)
    if file is not None:
        layers.update(_from_file(file))
    for option in options():
        for variable in option.env:
            if environ.get(variable):
                layers[option.id] = (environ[variable], variable, variable)
                break
        if option.id in arguments:
            layers[option.id] = (arguments[option.id], option.flag, option.flag)
    settings, origins, warnings = Settings(), {}, _unknown_variables(environ)
    if _DATA_DIR not in layers:
        storage = StorageSettings(data_dir=default_data_dir(environ))
        settings = replace(settings, storage=storage)
    for option in options():
        if option.id not in layers:
            continue
        raw, where, origin = layers[option.id]
        try:
            value = parse(option, raw, where)
        except SettingsError as error:
            if not option.info.get("lenient"):
                raise
            warnings.append(f"{error}; {default_text(option)} is used")
            continue
        group = replace(getattr(settings, option.group), **{option.name: value})
        settings = replace(settings, **{option.group: group})
        origins[option.id] = origin
    return Loaded(settings, origins, tuple(warnings), file)


def _config_file(
    config: Path | None,
    arguments: Mapping[str, object],
    environ: Mapping[str, str],
    defaults: Mapping[str, tuple[object, str]],
    system_file: Path | None,
) -> Path | None:
    """Return the named file (which must exist), else the first of the usual files that exists, else None."""
    named = config or (Path(environ["CI_RUNNER_CONFIG"]) if environ.get("CI_RUNNER_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise SettingsError(f"{named}: no such configuration file")
        return named
    given = arguments.get(_DATA_DIR) or environ.get("CI_RUNNER_DATA_DIR")
    given = given or defaults.get(_DATA_DIR, (None, ""))[0]
    data_dir = _path(str(given), _DATA_DIR) if given else default_data_dir(environ)
    candidates = [data_dir / FILE_NAME] + ([system_file] if system_file else [])
    return next((path for path in candidates if path.is_file()), None)


def _from_file(path: Path) -> dict[str, tuple[object, str, str]]:
    """Return option id → value, where, origin. Unknown tables and keys are errors that name the nearest known one."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    tables: dict[str, dict[str, Option]] = {}
    for option in options():
        tables.setdefault(option.group, {})[option.key] = option
    found = {}
    for table, content in document.items():
        if table not in tables:
            raise SettingsError(f"{path}: unknown table [{table}]{_nearest(table, tables)}")
        if not isinstance(content, dict):
            raise SettingsError(f"{path}: {table} must be a table: write [{table}]")
        for key, value in content.items():
            known = tables[table].get(key.replace("_", "-"))
            if known is None:
                raise SettingsError(f"{path}: unknown key {key!r} in [{table}]{_nearest(key, tables[table])}")
            found[known.id] = (value, f"{path}: [{table}] {known.key}", str(path))
    return found


#: Prefixes of variables that plugins read themselves (`ci_runner.plugins.hookspecs.Hooks.configure`).
_OF_PLUGINS: Final = ("CI_RUNNER_PLUGIN_", "CI_RUNNER_WEBHOOK_", "CI_RUNNER_JWT_")


def _nearest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a warning for each unknown CI_RUNNER_… variable, probably a typing error."""
    known = {variable for option in options() for variable in option.env} | _OTHER_VARIABLES
    strays = sorted(
        name
        for name in environ
        if name.startswith("CI_RUNNER_") and not name.startswith(_OF_PLUGINS) and name not in known
    )
    return [f"{name}: no such setting{_nearest(name, known)}" for name in strays]


def document() -> str:
    """Return docs/reference/settings.md, made from the metadata (a test compares the file)."""
    parts = [_HEAD]
    for group in fields(Settings):
        summary = str(getattr(group.default_factory, "__doc__", "")).strip()
        parts.append(f"\n## [{group.name}]\n\n{summary}\n")
        parts.append("| key | flag | environment | default | meaning |\n|---|---|---|---|---|")
        for option in options():
            if option.group == group.name:
                variables = ", ".join(f"`{name}`" for name in option.env)
                meaning = str(option.info["help"])
                if "choices" in option.info:
                    meaning += f" ({', '.join(option.info['choices'])})"
                parts.append(
                    f"| `{option.key}` | `{option.flag}` | {variables} | {default_text(option)} | {meaning} |"
                )
    return "\n".join(parts) + "\n"


_HEAD: Final = """# Settings of the runner

Made from the code by `python -m ci_runner.settings.loader`; do not edit.

What counts: command line, then environment, then the TOML file, then the default. The file is the one that `--config`
or `CI_RUNNER_CONFIG` names, else `ci-runner.toml` in the data directory, else `/etc/ci-runner/config.toml`. Tables of
the file have the names of the sections below. Sizes take units (`512m`, `2g`), lists are separated by commas (in TOML:
arrays), durations are seconds. An unknown key or a wrong value is an error (exit code 2) that names the place; only a
useless `interval` is replaced by the default, with a warning."""


if __name__ == "__main__":
    sys.stdout.write(document())
