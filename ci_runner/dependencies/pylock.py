"""Requirement lines and pins of a pylock.toml (PEP 751); pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ci_runner.dependencies.bounded_toml import table, text
from ci_runner.dependencies.project import Tree, read_toml
from ci_runner.dependencies.requirements import normalized
from ci_runner.errors import EnvironmentFailed

#: Names of the lock, the first that exists is taken.
FILES: Final = ("pylock.toml", "pylock.test.toml", "pylock.tests.toml", "pylock.dev.toml")

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_URL: Final = re.compile(r"[a-z][a-z+]*://\S+")
#: Variables that no requirement line has: such a package is installed only with an extra or group.
_CHOICE: Final = re.compile(r"\b(?:extras|dependency_groups)\b")


@dataclass
class Pylock:
    """The packages of a lock."""

    #: The file that was read; None if there is none.
    file: str | None = None
    #: Packages that are always installed.
    lines: list[str] = field(default_factory=list)
    #: Versions of packages that are installed only with an extra or group.
    constraints: list[str] = field(default_factory=list)


def read(tree: Tree) -> Pylock:
    """Return the packages of the lock. Raises `EnvironmentFailed`."""
    result = Pylock(next((file for file in FILES if file in tree.digests), None))
    if result.file is None:
        return result
    packages = read_toml(tree, result.file).get("packages", [])
    for package in packages if isinstance(packages, list) else [packages]:
        _add(result, package, result.file)
    return result


def _add(into: Pylock, package: object, file: str) -> None:
    """Add one package; the project itself (a directory) is left out."""
    if not isinstance(package, Mapping) or not _NAME.fullmatch(text(package.get("name"), "a name", file)):
        raise EnvironmentFailed(f"{file}: a package has no name")
    name = normalized(package["name"])
    marker = text(package.get("marker", ""), f"the marker of {name}", file)
    choice = _CHOICE.search(marker) is not None
    target = f"=={package['version']}" if "version" in package else ""
    if "vcs" in package or "archive" in package:
        target = f" @ {_address(package, name, file)}"
    elif "directory" in package:
        path = text(table(package, "directory").get("path"), f"the path of {name}", file)
        if path.strip("./") and not choice and not path.startswith("/"):
            into.lines.append(path if path.startswith(".") else f"./{path}")
        return
    elif target and not _VERSION.fullmatch(text(package["version"], f"the version of {name}", file)):
        raise EnvironmentFailed(f"{file}: the version of {name} is not one")
    if not choice:
        into.lines.append(f"{name}{target}" + (f" ; {marker}" if marker else ""))
    elif target.startswith("=="):
        into.constraints.append(f"{name}{target}")


def _address(package: Mapping[str, object], name: str, file: str) -> str:
    source = table(package, "vcs") or table(package, "archive")
    url = text(source.get("url"), f"the url of {name}", file)
    if not _URL.fullmatch(url):
        raise EnvironmentFailed(f"{file}: the url of {name} is not one")
    if "vcs" not in package:
        return url
    commit = text(source.get("commit-id", ""), f"the commit of {name}", file)
    return f"{text(source.get('type', 'git'), f'the type of {name}', file)}+{url}" + (
        f"@{commit}" if commit else ""
    )
