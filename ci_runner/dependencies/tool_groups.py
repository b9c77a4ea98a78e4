"""Dependency groups that are not in the standard's table: those of Poetry, PDM, uv and Rye, and Hatch's environments.

Pure. Each tool also says which of its groups it installs by default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ci_runner.dependencies import poetry
from ci_runner.dependencies.bounded_toml import table, texts
from ci_runner.errors import EnvironmentFailed

#: Groups that a tool installs by default and that tests do not need.
NOT_FOR_TESTS: Final = frozenset(
    {"doc", "docs", "documentation", "lint", "linting", "format", "release", "publish"}
)
#: Hatch's environments that may hold the dependencies of tests; the first that exists is taken.
_HATCH_ENVIRONMENTS: Final = ("hatch-test", "test", "tests", "testing", "dev", "default")
#: What ``hatch test`` installs unless the project says otherwise; its plugin for a random order is off by default.
_HATCH_TEST: Final = (
    "coverage[toml]",
    "pytest",
    "pytest-mock",
    "pytest-rerunfailures",
    "pytest-xdist[psutil]",
)
_PDM_ROOT: Final = "file:///${PROJECT_ROOT}/"


@dataclass(frozen=True)
class HatchEnvironment:
    """What one of Hatch's environments adds to the project."""

    name: str
    lines: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass
class ToolGroups:
    """The groups of all tools in one pyproject.toml."""

    #: Requirement lines by group.
    lines: dict[str, list[str]] = field(default_factory=dict)
    #: Groups that a tool installs by default, in order.
    defaults: list[str] = field(default_factory=list)
    #: Whether uv's lock has the group "dev" although the standard's table does not.
    is_dev_in_lock: bool = False
    #: Whether some groups exclude others, so that only a tool's defaults can be taken together.
    is_exclusive: bool = False

    def add(self, name: str, lines: Iterable[str]) -> None:
        """Add lines to a group."""
        self.lines.setdefault(name, []).extend(lines)


def read(pyproject: Mapping[str, object]) -> ToolGroups:
    """Return the groups in a pyproject.toml. Raises `EnvironmentFailed` for values of a wrong form."""
    found = ToolGroups()
    tool = table(pyproject, "tool")
    old_poetry = table(tool, "poetry")
    for name, lines in poetry.groups(old_poetry).items():
        found.add(name, lines)
    found.defaults += [name for name in poetry.default_groups(old_poetry) if name not in NOT_FOR_TESTS]
    for name, listed in table(tool, "pdm", "dev-dependencies").items():
        what = f"tool.pdm.dev-dependencies.{name[:80]}"
        found.add(name, [_pdm_line(line, what) for line in texts(listed, what)])
        found.defaults += [name] if name not in NOT_FOR_TESTS else []
    for manager in ("uv", "rye"):
        old = table(tool, manager).get("dev-dependencies")
        if old is not None:
            what = f"tool.{manager}.dev-dependencies"
            found.add("dev", [_plain(line, what) for line in texts(old, what)])
            found.defaults.append("dev")
            found.is_dev_in_lock = manager == "uv" or found.is_dev_in_lock
    _add_uv_defaults(found, pyproject, table(tool, "uv"))
    return found


def _add_uv_defaults(found: ToolGroups, pyproject: Mapping[str, object], uv: Mapping[str, object]) -> None:
    defaults = uv.get("default-groups")
    if defaults == "all":
        found.defaults += [*table(pyproject, "dependency-groups"), *found.lines]
    elif defaults is not None:
        found.defaults += texts(defaults, "tool.uv.default-groups")
    if uv.get("conflicts"):
        found.is_exclusive = True
        found.defaults += ["dev"] if defaults is None else []


def hatch_environment(
    pyproject: Mapping[str, object], hatch: Mapping[str, object]
) -> HatchEnvironment | None:
    """Return the environment in which Hatch runs tests; None if the project defines none.

    `hatch`: the content of hatch.toml, which overrides ``[tool.hatch]`` of pyproject.toml.
    """
    environments = {**table(pyproject, "tool", "hatch", "envs"), **table(hatch, "envs")}
    name = next((name for name in _HATCH_ENVIRONMENTS if name in environments), None)
    if name is None:
        return None
    values = dict(table(environments, name))
    if name == "hatch-test":
        values.setdefault("dependencies", list(_HATCH_TEST))
    elif values.get("template") != name:
        values = {**table(environments, "default"), **values}

    def listed(key: str) -> list[str]:
        return texts(values.get(key, []), f"{key!r} of Hatch's environment {name}")

    lines = [*listed("dependencies"), *listed("extra-dependencies")]
    return HatchEnvironment(
        name,
        tuple(_plain(line, f"Hatch's environment {name}") for line in lines if "{" not in line),
        tuple(listed("features")),
        tuple(listed("dependency-groups")),
    )


def _pdm_line(line: str, what: str) -> str:
    """Return a line of PDM's groups: a folder in the project is named as requirements files do."""
    if line.startswith("-e "):
        folder = line[3:].strip().partition("#")[0]
        if folder.startswith(_PDM_ROOT) and not folder.removeprefix(_PDM_ROOT).startswith("/"):
            return f"-e ./{folder.removeprefix(_PDM_ROOT)}"
    return _plain(line, what)


def _plain(line: str, what: str) -> str:
    """Return a requirement line; raises `EnvironmentFailed` for an option of the installer."""
    if line.lstrip().startswith("-"):
        raise EnvironmentFailed(f"pyproject.toml: {what}: {line[:80]!r} is not a requirement")
    return line
